"""The verdict on one assistant turn: the first turn class that applies, in the order of `TURN_CLASSES`.

    infra_error → truncated → no_call → multiple_calls → wrapped → json_invalid → envelope_invalid → unknown_tool →
    missing_arg → unexpected_arg → wrong_type → bad_value → exec_error → ok

Beside them stand `final` (no call) and `early_final` (a final before any call: invalid). Another agent's turn whose
tool schemas nobody gave is `unjudged`.
"""

from __future__ import annotations

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


class Verdict(msgspec.Struct, frozen=True):
    """A turn's class; the call to run when it is None yet, the final, and the error for the model."""

    turn_class: str | None
    call: ToolCall | None = None
    final: dict[str, Any] | None = None
    error: str = ""
    unchecked: frozenset[str] = frozenset()
    """What of the tool's schema was not checked; see `registry.Checked`."""


def judge(parsed: Parsed, registry: Registry, *, truncated: bool, any_call: bool) -> Verdict:
    """The verdict before execution. `turn_class` is None for a call that may run.

    `truncated`: the reply hit the token cap. `any_call`: some earlier turn of this rollout was a call that ran.
    """
    if truncated:
        return Verdict("truncated", error="the reply was cut off at the token limit; send a shorter one")
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


def lenient_ok(parsed: Parsed, registry: Registry) -> bool:
    """Whether the forgiving parse alone yields a call that the schema takes."""
    return parsed.lenient is not None and registry.check(parsed.lenient) is None
