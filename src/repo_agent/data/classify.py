"""Every turn of a trace judged afresh: recorded turn classes are not trusted where something is learned."""

from __future__ import annotations

import json
from itertools import zip_longest

from msgspec.structs import replace

from repo_agent.messages import Message, ToolCall, key_of
from repo_agent.protocols import PROTOCOLS, Protocol, protocol_named
from repo_agent.tools.files import default_registry
from repo_agent.tools.registry import Registry, ToolResult
from repo_agent.tools.verdict import FINALS, Parsed, Verdict, executed, holds_call, judge
from repo_agent.traces.trace import Trace, Turn

_RAN = frozenset({"ok", "exec_error", "bad_value"})

_PLAIN = frozenset({str, int, bool, type(None)})


class Registries:
    """The tools that traces are judged by: those given, else those that a trace names, else our four."""

    def __init__(self, given: Registry | None = None) -> None:
        self._given = given
        self._known: dict[bytes, Registry] = {}
        self.problems: list[str] = []
        """Tools whose calls cannot be judged, each once."""

    def of(self, trace: Trace) -> Registry:
        """Raises UserError for what are no tool schemas."""
        if self._given is not None:
            return self._given
        key = key_of([trace.tools, trace.source == "loop"])
        if key not in self._known:
            self._known[key] = found = _registry_of(trace)
            self.problems += [f"calls of {name} are not judged: {why}" for name, why in found.unjudged.items()]
        return self._known[key]


def _registry_of(trace: Trace) -> Registry:
    if trace.source != "loop" and not trace.tools:
        return Registry([])
    return Registry.from_openai(trace.tools, str(trace.path)) if trace.tools else default_registry()


def classify(trace: Trace, registry: Registry) -> list[Verdict]:
    """The verdict on each turn, with its final turn class: how the call fared is taken from the recorded result.

    A call without a recorded result is `infra_error`: left out and counted. Nobody marked the results of another
    agent's calls as good or bad: there a call that the schemas take is `ok`; a reply without a call that a user answers
    is the `final` of that exchange, and `no_call` where the agent went on by itself; calls in a request's history
    count; without schemas its turns are `unjudged`.
    """
    verdicts = []
    protocol = _protocol(trace)
    older, ours = trace.shape == "older", trace.source == "loop"
    any_call, seen = not ours and bool(called_before(trace, registry)), 0
    for turn, following in zip_longest(trace.turns, trace.turns[1:]):
        if not ours:
            any_call = any_call or any(map(_tells_of_call, turn.messages[seen : turn.at]))
            seen = turn.at
        if not ours and (turn.turn_class == "infra_error" or not registry.judges):
            verdicts.append(Verdict("infra_error" if turn.turn_class == "infra_error" else "unjudged"))
            continue
        verdict = judge(
            _parsed(turn, protocol, registry, older and trace.protocol == "native")
            if protocol
            else _read_by_agent(turn),
            registry,
            truncated=turn.finish_reason == "length",
            any_call=any_call,
            parallel=trace.parallel,
        )
        any_call = any_call or verdict.turn_class is None or (not ours and holds_call(verdict))
        if verdict.turn_class is None:
            verdict = replace(verdict, turn_class=_outcome(turn) if ours or turn.ok is not None else "ok")
        if not ours and verdict.turn_class in FINALS and following is not None:
            went_on = Verdict("no_call", error="a reply without a call, and the agent went on")
            verdict = Verdict("final", final=verdict.final) if turn.answered(following) else went_on
        verdicts.append(verdict)
    return verdicts


def called_before(trace: Trace, registry: Registry) -> list[ToolCall]:
    """The calls in what was said before the first turn: of a replay, those of the rollout that it was taken from."""
    said = [message for message in (trace.turns[0].context if trace.turns else ()) if message.role == "assistant"]
    protocol = _protocol(trace)
    found: list[ToolCall] = []
    for message in said:
        read = protocol.parse(message.content, registry.specs) if protocol and not message.tool_calls else Parsed()
        found += [*message.tool_calls, *(one.call for one in (read, *read.each) if one.call)]
    return found


def _tells_of_call(message: Message) -> bool:
    return bool(message.tool_calls) or message.role == "tool"


def _protocol(trace: Trace) -> Protocol | None:
    """What reads a trace's replies; None for another agent's own wire format, which only that agent reads."""
    if trace.shape == "older":
        return protocol_named("json")
    return PROTOCOLS.get(trace.protocol) if trace.source != "loop" else PROTOCOLS.get(trace.protocol, PROTOCOLS["json"])


def _read_by_agent(turn: Turn) -> Parsed:
    """A turn by the call that its own agent read."""
    return Parsed(call=turn.call, lenient=turn.call) if turn.call else Parsed(fault="no_call", error="no call in it")


def _parsed(turn: Turn, protocol: Protocol, registry: Registry, native: bool) -> Parsed:
    """What a turn says. The last reply of an older native trace has no next request that shows whether it was a call.

    Where it could not be parsed and begins like JSON, it is taken for a call's arguments.
    """
    if turn.text is None and turn.call and all(type(value) in _PLAIN for value in turn.call.args.values()):
        return Parsed(call=turn.call, lenient=turn.call)  # as its text would be read, without writing it
    parsed = protocol.parse(turn.text if turn.text is not None else _as_text(turn), registry.specs)
    begins_like_json = (turn.text or "").lstrip().startswith(("{", "["))
    if turn.broken_arguments or (native and parsed.fault == "no_call" and begins_like_json):
        return Parsed(fault="json_invalid", error="the arguments are not a JSON object")
    return parsed


def _as_text(turn: Turn) -> str:
    """A turn without raw text, as its parsed call or final would read."""
    if turn.call:
        return protocol_named("json").render_call(turn.call)
    return json.dumps(turn.final or {})


def _outcome(turn: Turn) -> str:
    if turn.ok is not None:
        return executed(ToolResult(turn.ok, turn.output or "", turn.code))
    return turn.turn_class if turn.turn_class in _RAN else "infra_error"
