"""The verdict on a foreign agent's replies while they come in, and validity so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repo_agent.errors import UserError
from repo_agent.protocols import PROTOCOLS, protocol_named
from repo_agent.record.wire import ChatRequest, text_of
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import FINALS, TURN_CLASSES, UNSCORED, holds_call, judge, lenient_ok
from repo_agent.traces.events import WireMessage


@dataclass(frozen=True)
class Judged:
    """What a trace records about a reply."""

    turn_class: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    lenient_ok: bool = False
    error: str = ""


class Tally:
    """Turns by class over all conversations. A final, early or not, counts as one until its conversation is continued:
    where a user answered it was the final of that exchange, else `no_call`."""

    def __init__(self) -> None:
        self.classes: Counter[str] = Counter()
        self.unchecked: Counter[str] = Counter()
        """Calls by what of their tool's schema was not checked."""
        self.unjudged: dict[str, str] = {}
        """Tools whose calls cannot be judged, and why."""

    def add(self, turn_class: str) -> None:
        self.classes[turn_class] += 1

    def went_on(self, final: str, answered: bool) -> None:
        self.classes[final] -= 1
        self.classes["final" if answered else "no_call"] += 1

    def counts(self) -> dict[str, int]:
        """The classes that occurred, in their order."""
        return {name: self.classes[name] for name in TURN_CLASSES if self.classes[name]}

    def line(self) -> str:
        """Validity so far, in one line."""
        counts = self.counts()
        scored = sum(count for name, count in counts.items() if name not in UNSCORED)
        if not scored:
            why = "not measured: neither --tools nor a request says which tools there are"
            return f"validity {why if counts.get('unjudged') else 'not measured yet'}"
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        partly = "".join(f"; {count} calls without {name} checked" for name, count in sorted(self.unchecked.items()))
        partly += "".join(f"; calls of {name} are not judged ({why})" for name, why in self.unjudged.items())
        return f"validity so far {counts.get('ok', 0) / scored:.1%} of {scored} turns ({said}{partly})"


class Judge:
    """Judges the turns of one conversation by the schemas of `--tools`, else by those of its own first request."""

    def __init__(self, tally: Tally, request: ChatRequest, protocol: str, given: Registry | None) -> None:
        own = request.tools
        self._tally, self._registry, self._protocol = tally, given or _registry(own), protocol
        self._parallel = request.sampling.get("parallel_tool_calls") is not False
        self.schemas = own if own is not None else given.schemas() if given else None
        """What the trace says about the tools: as the agent sent them, where it did."""
        self.last: str | None = None
        """The class of the last turn."""
        tally.unjudged |= self._registry.unjudged if self._registry else {}
        self._any_call = self._called_before(request)

    def sees(self, added: Sequence[WireMessage]) -> None:
        """Messages since the last reply: a call among them counts, whatever was made of the reply."""
        self._any_call = self._any_call or any(map(_tells_of_call, added))

    def went_on(self, answered: bool) -> None:
        """The conversation is continued; `answered`: by a user's message."""
        if self.last in FINALS:
            self._tally.went_on(self.last, answered)
            self.last = "final" if answered else "no_call"

    def verdict(self, text: str, finish_reason: str | None, read: Judged | None = None) -> Judged:
        """The verdict on a reply. A call that the schemas take is `ok`: how it fares nobody tells us."""
        judged = read or self._judge(text, finish_reason)
        self.last = judged.turn_class
        self._tally.add(judged.turn_class)
        return judged

    def _called_before(self, request: ChatRequest) -> bool:
        """Whether a call is in the history of the first request."""
        said = [message for message in request.messages if message.role == "assistant"]
        if any(map(_tells_of_call, request.messages)) or self._registry is None:
            return True
        parse, specs = PROTOCOLS[self._protocol].parse if self._protocol in PROTOCOLS else None, self._registry.specs
        return parse is not None and any(parse(text_of(message), specs).call for message in said)

    def _judge(self, text: str, finish_reason: str | None) -> Judged:
        if self._registry is None or not self._registry.judges:
            return Judged("unjudged")
        parsed = protocol_named(self._protocol).parse(text, self._registry.specs)
        truncated, parallel = finish_reason == "length", self._parallel
        verdict = judge(parsed, self._registry, truncated=truncated, any_call=self._any_call, parallel=parallel)
        self._any_call = self._any_call or holds_call(verdict)
        self._tally.unchecked.update(verdict.unchecked)
        calls = [{"name": call.name, "args": call.args} for call in verdict.calls]
        lenient = lenient_ok(parsed, self._registry, parallel)
        return Judged(verdict.turn_class or "ok", calls, lenient, verdict.error)


def _tells_of_call(message: WireMessage) -> bool:
    return bool(message.tool_calls) or message.role == "tool"


def _registry(own: list[dict[str, Any]] | None) -> Registry | None:
    """The agent's own schemas; None where it sent none, or some that are no JSON schemas."""
    if not own:
        return None
    try:
        return Registry.from_openai(own)
    except UserError:
        return None
