"""From the lines that the runner wrote to the verdict, and to the few words of it that a model is shown."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from repo_agent.errors import InfraError

SHOWN_FAILURES = 3
SHOWN_CHARS = 160
RESULT_BYTES = 16 * 2**20
COLLECTING = "collecting the tests"


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict. `expected` counts the collected tests; None where the run died before it knew."""

    outcome: str
    """passed, failed, timed_out, out_of_memory, crashed or no_tests"""
    passed: int
    failed: int
    skipped: int
    expected: int | None
    output: str
    """What a model is shown; the same for the same files: no time, no address, no scratch path."""


@dataclass(frozen=True, slots=True)
class End:
    """How the runner's process ended: killed at the wall, its exit code (negative: a signal), and its last words."""

    late: bool
    ready: bool
    """Got as far as the tested code; from there on trouble is that code's."""
    code: int
    complaint: str


def records(results: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that the runner wrote; a torn or foreign one is none."""
    results.seek(0)
    for line in results.read(RESULT_BYTES).splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


class Results:
    """The runner's records, sorted by kind, with messages that name no address and no scratch path."""

    def __init__(self, records: Iterator[dict[str, Any]], marker: str, scratch: Path) -> None:
        self.ended = False
        self.collected: list[str] | None = None
        self.tests: list[tuple[str, str, str]] = []
        self.errors: list[tuple[str, str]] = []
        self.timed_out: str | None = None
        for record in records:
            name, message = _clean(record.get("id"), scratch), _clean(record.get("message"), scratch)
            match record.get("kind"):
                case "collected":
                    self.collected = [_clean(entry, scratch) for entry in _listed(record.get("ids"))]
                case "test":
                    self.tests.append((name, str(record.get("outcome")), message))
                case "error":
                    self.errors.append((name, message))
                case "timed_out":
                    self.timed_out = name
                case "end":
                    self.ended = record.get("marker") == marker

    def count(self, outcome: str) -> int:
        return sum(test[1] == outcome for test in self.tests)

    def waiting(self) -> list[str]:
        """The collected tests without a result; the first is the one that ran when the run was cut short."""
        return (self.collected or [])[len(self.tests) :]

    def whole(self) -> bool:
        """Came to its end, and every collected test has exactly one result, in order."""
        return self.ended and not self.errors and [test[0] for test in self.tests] == self.collected


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _clean(text: object, scratch: Path) -> str:
    """Text that is the same in every run, and that UTF-8 can carry."""
    plain = str(text or "").replace(f"{scratch}/work/", "").replace(str(scratch), "")
    return re.sub(r"0x[0-9a-fA-F]{4,}", "0x…", plain).encode(errors="replace").decode()


def verdict(results: Results, end: End, test_seconds: float, wall_seconds: float) -> Grade:
    if not end.ready:
        raise InfraError("grade", f"the test runner did not start (exit {end.code}): {end.complaint.strip()[-500:]}")
    outcome = _outcome(results, end)
    passed, failed, skipped = (results.count(name) for name in ("passed", "failed", "skipped"))
    expected = None if results.errors or results.collected is None else len(results.collected)
    lines = [_headline(outcome, results), *_details(outcome, results, test_seconds, wall_seconds)]
    return Grade(outcome, passed, failed, skipped, expected, "\n".join(map(_cut, lines)))


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _outcome(results: Results, end: End) -> str:
    messages = [test[2] for test in results.tests] + [message for _, message in results.errors]
    if end.late or results.timed_out is not None:
        return "timed_out"
    if end.code in (-signal.SIGKILL, 128 + signal.SIGKILL) or any(m.startswith("MemoryError") for m in messages):
        return "out_of_memory"
    if not results.ended:
        return "crashed"
    if not results.collected and not results.errors:
        return "no_tests"
    good = results.whole() and results.count("failed") == 0 and results.count("passed") > 0
    return "passed" if good else "failed"


def _headline(outcome: str, results: Results) -> str:
    """`1 failed, 2 passed`, after the outcome where that says more."""
    counts = [(results.count(name), name) for name in ("failed", "passed", "skipped")]
    counts.insert(1, (len(results.errors), "errors" if len(results.errors) > 1 else "error"))
    counts.append((len(results.waiting()) - (outcome in ("timed_out", "crashed")), "not run"))
    parts = [f"{count} {name}" for count, name in counts if count > 0]
    if outcome not in ("passed", "failed"):
        parts.insert(0, outcome.replace("_", " "))
    return ", ".join(parts) or outcome


def _details(outcome: str, results: Results, test_seconds: float, wall_seconds: float) -> list[str]:
    """One line for each of the first failures; for a run cut short, the test where it ended."""
    lines = [f"{name or COLLECTING}: {message}" for name, message in results.errors]
    lines += [f"{name}: {message}" for name, verdict, message in results.tests if verdict == "failed"]
    lines = lines[:SHOWN_FAILURES]
    place = results.timed_out or next(iter(results.waiting()), COLLECTING)
    if outcome == "timed_out":
        seconds = test_seconds if results.timed_out is not None else wall_seconds
        lines.append(f"{place}: took longer than {seconds:g} s")
    elif outcome == "crashed" or (outcome == "failed" and results.waiting()):
        lines.append(f"{place}: the process ended here")
    return lines
