"""The verdict on a foreign agent's replies while they come in, and validity so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from repo_agent.errors import UserError
from repo_agent.protocols import protocol_named
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import FINALS, TURN_CLASSES, UNSCORED, holds_call, judge, lenient_ok


@dataclass(frozen=True)
class Judged:
    """What a trace records about a reply."""

    turn_class: str
    call: dict[str, Any] | None = None
    lenient_ok: bool = False
    error: str = ""


class Tally:
    """Turns by class over all conversations. A final, early or not, counts as one until its conversation is continued:
    then it was `no_call`."""

    def __init__(self) -> None:
        self.classes: Counter[str] = Counter()
        self.unchecked: Counter[str] = Counter()
        """Calls by what of their tool's schema was not checked."""
        self.unjudged: dict[str, str] = {}
        """Tools whose calls cannot be judged, and why."""

    def add(self, turn_class: str) -> None:
        self.classes[turn_class] += 1

    def went_on(self, final: str) -> None:
        self.classes[final] -= 1
        self.classes["no_call"] += 1

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

    def __init__(self, tally: Tally, own: list[dict[str, Any]] | None, given: Registry | None) -> None:
        self._tally, self._registry = tally, given or _registry(own)
        self.schemas = own if own is not None else given.schemas() if given else None
        """What the trace says about the tools: as the agent sent them, where it did."""
        self.last: str | None = None
        """The class of the last turn."""
        tally.unjudged |= self._registry.unjudged if self._registry else {}
        self._any_call = False

    def verdict(self, protocol: str, text: str, finish_reason: str | None, read: Judged | None = None) -> Judged:
        """The verdict on a reply. A call that the schemas take is `ok`: how it fares nobody tells us."""
        if self.last in FINALS:
            self._tally.went_on(self.last)
        judged = read or self._judge(protocol, text, finish_reason)
        self.last = judged.turn_class
        self._tally.add(judged.turn_class)
        return judged

    def _judge(self, protocol: str, text: str, finish_reason: str | None) -> Judged:
        if self._registry is None or not self._registry.judges:
            return Judged("unjudged")
        parsed = protocol_named(protocol).parse(text, self._registry.specs)
        truncated = finish_reason == "length"
        verdict = judge(parsed, self._registry, truncated=truncated, any_call=self._any_call)
        self._any_call = self._any_call or holds_call(verdict)
        self._tally.unchecked.update(verdict.unchecked)
        call = {"name": verdict.call.name, "args": verdict.call.args} if verdict.call else None
        return Judged(verdict.turn_class or "ok", call, lenient_ok(parsed, self._registry), verdict.error)


def _registry(own: list[dict[str, Any]] | None) -> Registry | None:
    """The agent's own schemas; None where it sent none, or some that are no JSON schemas."""
    if not own:
        return None
    try:
        return Registry.from_openai(own)
    except UserError:
        return None
