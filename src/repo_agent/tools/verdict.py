"""The verdict on one assistant turn: the first turn class that applies, in the order of `TURN_CLASSES`.

    infra_error → truncated → no_call → multiple_calls → wrapped → json_invalid → envelope_invalid → unknown_tool →
    missing_arg → unexpected_arg → wrong_type → bad_value → exec_error → ok

Beside them stand `final` (no call) and `early_final` (a final before any call: invalid). Another agent's turn whose
tool schemas nobody gave is `unjudged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from repo_agent.messages import ToolCall
from repo_agent.tools.registry import BAD_VALUE_CODES, Registry, ToolResult

TURN_CLASSES = (
    "infra_error",
    "truncated",
    "no_call",
    "multiple_calls",
    "wrapped",
    "json_invalid",
    "envelope_invalid",
    "unknown_tool",
    "missing_arg",
    "unexpected_arg",
    "wrong_type",
    "bad_value",
    "exec_error",
    "ok",
    "final",
    "early_final",
    "unjudged",
)
FINALS = ("final", "early_final")
UNSCORED = frozenset({"infra_error", "final", "unjudged"})
"""Turn classes outside the denominator of validity."""
LADDER = ("parses", "known", "arguments", "executes")
_RUNGS_PASSED = {
    "early_final": 1,
    "unknown_tool": 1,
    "missing_arg": 2,
    "unexpected_arg": 2,
    "wrong_type": 2,
    "bad_value": 2,
    "exec_error": 3,
    "ok": 4,
}


class Parsed(msgspec.Struct, frozen=True):
    """What a protocol made of a reply: a call, or a final, or a `fault` (a turn class) with its `error`.

    `lenient` is the one call that a forgiving parser finds, also where the strict one refused.
    """

    call: ToolCall | None = None
    final: dict[str, Any] | None = None
    fault: str | None = None
    error: str = ""
    lenient: ToolCall | None = None
    each: tuple[Parsed, ...] = ()
    """Where several calls are beside the text: what each comes to. The `fault` is then `multiple_calls`."""


class Verdict(msgspec.Struct, frozen=True):
    """A turn's class; the call to run when it is None yet, the final, and the error for the model."""

    turn_class: str | None
    call: ToolCall | None = None
    final: dict[str, Any] | None = None
    error: str = ""
    unchecked: frozenset[str] = frozenset()
    """What of the tool's schema was not checked; see `registry.Checked`."""
    more: tuple[ToolCall, ...] = ()
    """Of parallel calls: those after the first."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return ((self.call,) if self.call else ()) + self.more


def judge(parsed: Parsed, registry: Registry, *, truncated: bool, any_call: bool, parallel: bool = False) -> Verdict:
    """The verdict before execution. `turn_class` is None for a call that may run.

    `truncated`: the reply hit the token cap. `any_call`: some earlier turn of this rollout was a call that ran.
    `parallel`: a reply may hold several calls; each is judged, and the first class that applies to one of them counts.
    """
    if truncated:
        return Verdict("truncated", error="the reply was cut off at the token limit; send a shorter one")
    if parallel and parsed.each:
        return _together([judge(one, registry, truncated=False, any_call=any_call) for one in parsed.each])
    if parsed.fault:
        return Verdict(parsed.fault, error=parsed.error)
    if parsed.final is not None:
        if any_call:
            return Verdict("final", final=parsed.final)
        return Verdict("early_final", error="call a tool before you finish")
    assert parsed.call is not None
    checked = registry.checked(parsed.call)
    if checked.fault:
        return Verdict(checked.fault.turn_class, parsed.call, None, checked.fault.message, checked.unchecked)
    return Verdict(None, parsed.call, unchecked=checked.unchecked)


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on parallel calls."""
    calls = [verdict.call for verdict in verdicts if verdict.call]
    unchecked = frozenset[str]().union(*(verdict.unchecked for verdict in verdicts))
    faults = [(number, one) for number, one in enumerate(verdicts, 1) if one.turn_class]
    turn_class, error = None, ""
    if faults:
        number, worst = min(faults, key=lambda fault: TURN_CLASSES.index(str(fault[1].turn_class)))
        turn_class, error = worst.turn_class, f"call {number} of {len(verdicts)}: {worst.error}"
    return Verdict(turn_class, calls[0] if calls else None, None, error, unchecked, tuple(calls[1:]))


def holds_call(verdict: Verdict) -> bool:
    """Whether the reply held a call, good or bad: another agent may well have run it."""
    return verdict.turn_class is None or verdict.call is not None or verdict.turn_class == "multiple_calls"


def executed(result: ToolResult) -> str:
    """The turn class of a call that ran."""
    if result.ok:
        return "ok"
    return "bad_value" if result.code in BAD_VALUE_CODES else "exec_error"


def rungs(turn_class: str) -> int:
    """How many rungs of `LADDER` a scored turn has passed, 0 to 4."""
    return _RUNGS_PASSED.get(turn_class, 0)


def lenient_ok(parsed: Parsed, registry: Registry, parallel: bool = False) -> bool:
    """Whether the forgiving parse alone yields a call that the schema takes; of parallel calls, each of them."""
    if parallel and parsed.each:
        return all(lenient_ok(one, registry) for one in parsed.each)
    return parsed.lenient is not None and registry.check(parsed.lenient) is None
