"""From the records that a run wrote to the verdict, and to the few words of it that a model is shown."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from repo_agent.errors import InfraError
from repo_agent.sandbox.cases import Cases
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.supervise import End
from repo_agent.sandbox.watch import MOST_DEPTH, Bounds

SHOWN_FAILURES = 3
SHOWN_CHARS = 160
COMMAND_CHARS = 1_500
FOREIGN = "a result that the test runner did not write"
COLLECTING = "collecting the tests"
ENDED = {
    "memory": "used more than {memory_bytes} bytes of memory",
    "processes": "started more than {processes} processes",
    "files": "made more than {files} files",
    "depth": "made folders more than {depth} deep",
    "disk": "wrote more than {disk_bytes} bytes",
    "results": "flooded the results",
    "hidden": "hid what it holds",
}
PARTLY, EXPECTED = "skipped in part", "failed, as expected"
"""Said of a test that passed, of which a part was skipped; and of one that a mark lets fail."""
OUTCOMES = {name: name for name in ("passed", "failed", "skipped")}
SELECTING = ("-k", "-m", "--deselect", "--ignore", "--ignore-glob", "-x", "--maxfail", "--co", "--lf", "-o")
"""pytest arguments that leave tests out, or change which functions are tests."""


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict. `expected` counts the collected tests; None where the run died before it knew."""

    outcome: str
    """passed, failed, timed_out, out_of_memory, crashed, no_tests or tampered"""
    passed: int
    failed: int
    skipped: int
    expected: int | None
    output: str
    """What a model is shown; the same for the same files: no time, no address, no scratch path."""


class Results:
    """The records of a run, sorted by kind, with messages that name no address and no scratch path."""

    def __init__(self, written: bytes, key: bytes, scratch: str, cases: Cases | None = None) -> None:
        self._cases = cases
        self.ready = self.ended = self.sentinel = False
        self.tampered = self.refused = ""
        self.collected = [cases.name(number) for number in range(len(cases.cases))] if cases else None
        self.tests: list[tuple[str, str, str]] = []
        self.errors: list[tuple[str, str]] = []
        self.timed_out: str | None = None
        try:
            for record in self._records(written, key):
                self._take(record, scratch)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            self.tampered = FOREIGN

    def _records(self, written: bytes, key: bytes) -> Iterator[dict[str, Any]]:
        """The lines up to the first that our runner did not write; one cut short by the end of the process is none."""
        mac = hashlib.blake2b(key=key, digest_size=16)
        for line in written.split(b"\n")[:-1]:
            text, _, digest = line.rpartition(b" ")
            mac.update(text)
            if not hmac.compare_digest(mac.copy().hexdigest().encode(), digest):
                self.tampered = FOREIGN
                return
            yield json.loads(text)

    def _take(self, record: dict[str, Any], scratch: str) -> None:
        name, message = _clean(record.get("id"), scratch), _clean(record.get("message"), scratch)
        match record["kind"]:
            case "ready":
                self.ready = True
            case "collected":
                self.collected = [_clean(entry, scratch) for entry in record["ids"]]
            case "test":
                self.tests.append((name, OUTCOMES[record["outcome"]], message))
            case "refused":
                self.refused = message
            case "error":
                self.errors.append((name, message))
            case "returned" | "raised" if self._cases:
                done = self._cases.judged(len(self.tests), record)
                self.tests.append((done[0], done[1], _clean(done[2], scratch)))
            case "timed_out":
                self.timed_out = name if self._cases is None else next(iter(self.waiting()), COLLECTING)
            case "tampered":
                self.tampered = _clean(record["what"], scratch)
            case "end":
                self.ended, self.sentinel = True, record["sentinel"] is True
            case _:
                raise ValueError("no record of the test runner")

    def count(self, outcome: str) -> int:
        return sum(test[1] == outcome for test in self.tests)

    def waiting(self) -> list[str]:
        """The collected tests without a result; the first is the one that ran when the run was cut short."""
        return (self.collected or [])[len(self.tests) :]

    def skipped(self) -> list[str]:
        """Tests that were skipped, in part too; none that failed as a mark of theirs expects."""
        found = [(name, message) for name, outcome, message in self.tests if outcome == "skipped" or message == PARTLY]
        return [name for name, message in found if message != EXPECTED]

    def passed(self) -> frozenset[str]:
        """Tests that passed, and skipped nothing."""
        return frozenset(name for name, outcome, _ in self.tests if outcome == "passed") - {*self.skipped()}

    def good(self) -> bool:
        """Came to its end, every collected test has exactly one result, in order; none failed, one passed."""
        whole = self.ended and not self.errors and [test[0] for test in self.tests] == self.collected
        return whole and self.count("failed") == 0 and self.count("passed") > 0


def _clean(text: object, scratch: str) -> str:
    """Text that is the same in every run, and that UTF-8 can carry."""
    plain = str(text or "").replace(f"{scratch}/work/", "").replace(f"{scratch}/", "")
    return re.sub(r"0x[0-9a-fA-F]{4,}", "0x…", plain).encode(errors="replace").decode()


class Given(Protocol):
    """The tests on the task as it is given; asked where all of them passed."""

    def counts(self) -> Mapping[str, int]:
        """How many tests of each name there are."""

    def passed(self) -> Collection[str]:
        """Ids of tests that passed there, and skipped nothing: one that failed may never have come to its skip."""


def verdict(job: TestJob, end: End, key: bytes, scratch: str, given: Given) -> Grade:
    """The grade of a run that has ended. Raises InfraError where it ended before any tested code ran."""
    results = Results(end.results, key, scratch, job.cases)
    if not results.ready:
        words = _clean(end.output, scratch).strip()[-500:]
        raise InfraError("grade", f"the test runner did not start (exit {end.code}): {words}")
    if job.command:
        return _of_command(job, end, scratch)
    if results.good() and not results.tampered:
        results.tampered = _doubt(job, results, given)
    outcome = _outcome(results, end)
    passed, failed, skipped = (results.count(name) for name in ("passed", "failed", "skipped"))
    expected = None if results.errors or results.collected is None else len(results.collected)
    lines = [_headline(outcome, results), *_details(outcome, results, end, job)]
    return Grade(outcome, passed, failed, skipped, expected, "\n".join(map(_cut, lines)))


def counted(job: TestJob, results: Results) -> Mapping[str, int]:
    """Of a run that only collects: how many tests of each name, parameters aside, the task's own files hold."""
    return _counts(
        name for name in results.collected or [] if name.partition("::")[0] in {**job.pristine, **job.hidden}
    )


def _counts(names: Iterable[str]) -> Counter[str]:
    return Counter(re.sub(r"\[.*", "", name, flags=re.DOTALL) for name in names)


def _doubt(job: TestJob, results: Results, given: Given) -> str:
    """Why a run in which all tests passed is not believed; "" where it is."""
    if job.cases:
        return ""
    if not results.sentinel:
        return "a test that must fail did not fail"
    have, expected = _counts(results.collected or []), dict(given.counts())
    if not any(word.split("=")[0][:2] in ("-k", "-m", "-o") or word.startswith(SELECTING) for word in job.args):
        expected = dict.fromkeys(_expected(job), 1) | expected
    missing = [name for name, count in expected.items() if have[name] < count]
    if missing:
        return f"{missing[0]} was not run" + (" with all its parameters" if have[missing[0]] else "")
    skipped = results.skipped()
    wrongly = {*skipped} & {*given.passed()} if skipped else set()
    return f"{min(wrongly)} was skipped, which it is not on the task as it is given" if wrongly else ""


def _expected(job: TestJob) -> Iterator[str]:
    """Ids of the tests that stand in the task's own files, in the open: functions, and methods of Test classes."""
    for file in job.tests:
        content = {**job.pristine, **job.hidden}.get(file, "")
        text = content if isinstance(content, str) else content.decode(errors="replace")
        if "importorskip" in text or "allow_module_level" in text:
            continue
        with contextlib.suppress(SyntaxError, ValueError):
            tree = ast.parse(text)
            last = {node.name: node for node in tree.body if isinstance(node, _NAMED)}
            for name, node in last.items():
                if isinstance(node, ast.ClassDef):
                    plain = name.startswith("Test") and not node.bases and not node.decorator_list
                    names = [part.name for part in node.body if isinstance(part, ast.FunctionDef)] if plain else []
                    has_init = "__init__" in names
                    yield from (f"{file}::{name}::{n}" for n in names if n.startswith("test") and not has_init)
                elif name.startswith("test") and not any("fixture" in ast.unparse(d) for d in node.decorator_list):
                    yield f"{file}::{name}"


_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _outcome(results: Results, end: End) -> str:
    messages = [test[2] for test in results.tests] + [message for _, message in results.errors]
    if results.tampered:
        return "tampered"
    if end.over == "wall" or results.timed_out is not None:
        return "timed_out"
    if end.over == "memory" or any(m.startswith("MemoryError") for m in messages):
        return "out_of_memory"
    if not results.ended:
        return "crashed"
    if not results.collected and not results.errors:
        return "no_tests"
    return "passed" if results.good() else "failed"


def _headline(outcome: str, results: Results) -> str:
    """`1 failed, 2 passed`, after the outcome where that says more."""
    counts = [(results.count(name), name) for name in ("failed", "passed", "skipped")]
    counts.insert(1, (len(results.errors), "errors" if len(results.errors) > 1 else "error"))
    counts.append((len(results.waiting()) - (outcome in ("timed_out", "crashed")), "not run"))
    parts = [f"{count} {name}" for count, name in counts if count > 0]
    if outcome not in ("passed", "failed"):
        parts.insert(0, outcome.replace("_", " "))
    return ", ".join(parts) or outcome


def _details(outcome: str, results: Results, end: End, job: TestJob) -> list[str]:
    """One line for each of the first failures; for a run cut short, the test where it ended."""
    if results.tampered:
        return [results.tampered]
    lines = [results.refused] if results.refused else []
    lines += [f"{name or COLLECTING}: {message}" for name, message in results.errors]
    lines += [f"{name}: {message}" for name, verdict, message in results.tests if verdict == "failed"]
    lines = lines[:SHOWN_FAILURES]
    place = results.timed_out or next(iter(results.waiting()), COLLECTING)
    if outcome == "timed_out":
        seconds = job.test_seconds if results.timed_out is not None else job.bounds.wall_seconds
        lines.append(f"{place}: took longer than {seconds:g} s")
    elif end.over:
        lines.append(f"{place}: {_limit(end, job.bounds)}")
    elif outcome == "crashed" or (outcome == "failed" and results.waiting() and not results.errors):
        lines.append(f"{place}: the process ended here")
    return lines


def _limit(end: End, bounds: Bounds) -> str:
    return ENDED[end.over].format(
        memory_bytes=bounds.memory_bytes,
        processes=bounds.processes,
        files=bounds.files,
        disk_bytes=bounds.disk_bytes,
        depth=MOST_DEPTH,
    )


def _of_command(job: TestJob, end: End, scratch: str) -> Grade:
    """The exit code's verdict; single tests are not seen, and the words say so."""
    outcome = "passed" if end.code == 0 and not end.over else "failed"
    if end.over:
        outcome = {"wall": "timed_out", "memory": "out_of_memory"}.get(end.over, "crashed")
        how = f"took longer than {job.bounds.wall_seconds:g} s" if end.over == "wall" else _limit(end, job.bounds)
    else:
        how = f"exit code {end.code}"
    # What unshare says of being killed is not the command's.
    lines = [
        line for line in _clean(end.output, scratch).splitlines() if not (end.over and line.startswith("unshare:"))
    ]
    text = "\n".join(lines).strip()
    shown = text if len(text) <= COMMAND_CHARS else f"[...]\n{text[-COMMAND_CHARS:]}"
    return Grade(outcome, int(outcome == "passed"), int(outcome != "passed"), 0, None, f"{how}\n{shown}".strip())
