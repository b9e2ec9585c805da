"""Calls with known results, compared out of the tested code's reach: it never sees what is expected."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

SHOWN_VALUE = 60


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments and the expected result as JSON has them: tuples, sets and iterators are lists."""

    arguments: tuple[Any, ...]
    expected: Any
    tolerance: float = 0.0
    """Absolute, for numbers."""


@dataclass(frozen=True, slots=True)
class Cases:
    """What to call, and the cases."""

    module: str
    """Dotted name, from the workspace's root."""
    function: str
    cases: tuple[Case, ...]

    def name(self, number: int) -> str:
        """The call as Python writes it, cut."""
        words = ", ".join(map(repr, self.cases[number].arguments))
        return f"{self.function}({words if len(words) <= SHOWN_VALUE else words[:SHOWN_VALUE] + '…'})"

    def judged(self, number: int, record: dict[str, Any]) -> tuple[str, str, str]:
        """(name, outcome, message) of one record of the child, `returned` or `raised`."""
        if record["kind"] == "raised":
            return self.name(number), "failed", str(record["message"])
        case = self.cases[number]
        try:
            value = json.loads(record["value"])
        except ValueError:
            return self.name(number), "failed", "the result is no JSON value"
        if _equal(value, case.expected, case.tolerance):
            return self.name(number), "passed", ""
        return self.name(number), "failed", f"gave {_short(value)}, not {_short(case.expected)}"


def _equal(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, (int, float)) and isinstance(expected, (int, float)):
        same_kind = isinstance(value, bool) == isinstance(expected, bool)
        return same_kind and (value == expected or math.isclose(value, expected, rel_tol=0, abs_tol=tolerance))
    if isinstance(value, list) and isinstance(expected, list):
        pairs = zip(value, expected, strict=False)
        return len(value) == len(expected) and all(_equal(one, other, tolerance) for one, other in pairs)
    return type(value) is type(expected) and bool(value == expected)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_VALUE else text[:SHOWN_VALUE] + "…"
