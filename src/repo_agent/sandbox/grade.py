"""The verdict on a workspace: its tests run in a scratch copy, in a child process, and each test is reported.

The tests never run in the model's workspace. In the copy the task's own files (tests, their data, conftest) come
first, and files that configure pytest or Python are left out unless they are the task's. The verdict is made of the
per-test results of `runner.py`, never of the exit code: `sys.exit(0)` in tested code passes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from repo_agent.errors import InfraError
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.workspace import put_files, regular_files

RUNNER = Path(__file__).with_name("runner.py")
PYTEST_FILES = ("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg")
CONFIG_FILES = frozenset((*PYTEST_FILES, "pyproject.toml", "sitecustomize.py", "usercustomize.py"))
"""Names by which a file changes how pytest or Python start."""
SHOWN_FAILURES = 3
SHOWN_CHARS = 160
RESULT_BYTES = 16 * 2**20
COLLECTING = "collecting the tests"


@dataclass(frozen=True)
class TestJob:
    """What to run on a workspace, and within which limits. Paths are relative to the root and use `/`."""

    __test__ = False  # pytest, on seeing the name

    tests: tuple[str, ...]
    """Test files, in order."""
    pristine: Mapping[str, str]
    """The task's own files that are put back before the tests run: path → text."""
    hidden: Mapping[str, str] = field(default_factory=dict)
    """Files that exist only while the tests run."""
    args: tuple[str, ...] = ()
    """Further pytest arguments."""
    test_seconds: float = 3.0
    """Processor time of one test, and a quarter of its time on the clock; the first test that reaches either ends the
    session. Collecting has this for each file."""
    wall_seconds: float = 30.0
    """Limit of the whole run, for what the limit of one test cannot stop."""
    memory_bytes: int = 2**30
    """Address space of a process."""
    file_bytes: int = 64 * 2**20
    """Size of a file that the tests write. What they print is thrown away."""


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


async def grade(root: Path, job: TestJob, isolation: Isolation) -> Grade:
    """Run the job's tests on a copy of the workspace at `root`.

    Raises InfraError where the runner itself does not start. What the tested code does, whatever it is, is a grade.
    """
    with (
        tempfile.TemporaryDirectory(prefix="repo-agent-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as results,
    ):
        scratch = Path(folder).resolve()
        _fill(scratch, root, job)
        marker = secrets.token_hex(16)
        results.write(_job_line(scratch, job, marker))
        results.seek(0)
        end = await _run(scratch, results, job.wall_seconds, isolation)
        return _verdict(_Results(_records(results), marker, scratch), end, job)


def _fill(scratch: Path, root: Path, job: TestJob) -> None:
    """The scratch folder: `work`, the copy; `home`, for HOME and temporary files; an empty pytest.ini above both.

    pytest takes the nearest ini file upwards, so a stray one in the system's temporary folder changes nothing.
    """
    work = scratch / "work"
    for folder in (work, scratch / "home"):
        folder.mkdir()
    (scratch / "pytest.ini").touch()
    put_files(work, {**job.pristine, **job.hidden})
    for name, source in regular_files(root):
        target = work / name
        if _is_left_out(PurePosixPath(name)) or target.exists():
            continue
        # A folder of the model's where the task has a file, or the reverse: the task's stays.
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _is_left_out(path: PurePosixPath) -> bool:
    cache = path.suffix == ".pyc" or not {"__pycache__", ".pytest_cache"}.isdisjoint(path.parts)
    return cache or path.name in CONFIG_FILES


def _job_line(scratch: Path, job: TestJob, marker: str) -> bytes:
    fields = {
        "root": str(scratch / "work"),
        "tests": job.tests,
        "args": job.args,
        "seconds": job.test_seconds,
        "memory_bytes": job.memory_bytes,
        "file_bytes": job.file_bytes,
        "marker": marker,
    }
    return json.dumps(fields).encode()


async def _run(scratch: Path, results: IO[bytes], wall_seconds: float, isolation: Isolation) -> _End:
    """Start the runner in its own session, wait for it at most `wall_seconds`, and leave no process behind."""
    reading, writing = os.pipe()
    fds = (results.fileno(), writing)
    command = (*isolation.prefix, sys.executable, "-s", "-P", str(RUNNER), *map(str, fds))
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(scratch / "home"),
            pass_fds=fds,
            start_new_session=True,
        )
        os.close(writing)
        return await _end(process, reading, wall_seconds)
    finally:
        os.close(reading)


async def _end(process: asyncio.subprocess.Process, started: int, wall_seconds: float) -> _End:
    """Wait for the runner, kill what it leaves. `started`: a pipe in which it leaves a byte before the tested code."""
    assert process.stderr is not None
    late, complaint = False, b""
    try:
        # The runner closes stderr before it loads tested code, so no grandchild can hold it.
        async with asyncio.timeout(wall_seconds):
            complaint = await process.stderr.read()
            await process.wait()
    except TimeoutError:
        late = True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = await process.wait()
    os.set_blocking(started, False)
    with contextlib.suppress(BlockingIOError):
        return _End(late, bool(os.read(started, 1)), code, complaint.decode(errors="replace"))
    return _End(late, False, code, complaint.decode(errors="replace"))


def _environment(home: Path) -> dict[str, str]:
    """No variable of ours reaches the tests, keys least of all."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LOGNAME": "repo-agent",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


@dataclass(frozen=True, slots=True)
class _End:
    """How the runner's process ended: killed at the wall, its exit code (negative: a signal), and its last words."""

    late: bool
    ready: bool
    """Got as far as the tested code; from there on trouble is that code's."""
    code: int
    complaint: str


def _records(results: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that the runner wrote; a torn or foreign one is none."""
    results.seek(0)
    for line in results.read(RESULT_BYTES).splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


class _Results:
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


def _verdict(results: _Results, end: _End, job: TestJob) -> Grade:
    if not end.ready:
        raise InfraError("grade", f"the test runner did not start (exit {end.code}): {end.complaint.strip()[-500:]}")
    outcome = _outcome(results, end)
    passed, failed, skipped = (results.count(name) for name in ("passed", "failed", "skipped"))
    expected = None if results.errors or results.collected is None else len(results.collected)
    lines = [_headline(outcome, results), *_details(outcome, results, job)]
    return Grade(outcome, passed, failed, skipped, expected, "\n".join(map(_cut, lines)))


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _outcome(results: _Results, end: _End) -> str:
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


def _headline(outcome: str, results: _Results) -> str:
    """`1 failed, 2 passed`, after the outcome where that says more."""
    counts = [(results.count(name), name) for name in ("failed", "passed", "skipped")]
    counts.insert(1, (len(results.errors), "errors" if len(results.errors) > 1 else "error"))
    counts.append((len(results.waiting()) - (outcome in ("timed_out", "crashed")), "not run"))
    parts = [f"{count} {name}" for count, name in counts if count > 0]
    if outcome not in ("passed", "failed"):
        parts.insert(0, outcome.replace("_", " "))
    return ", ".join(parts) or outcome


def _details(outcome: str, results: _Results, job: TestJob) -> list[str]:
    """One line for each of the first failures; for a run cut short, the test where it ended."""
    lines = [f"{name or COLLECTING}: {message}" for name, message in results.errors]
    lines += [f"{name}: {message}" for name, verdict, message in results.tests if verdict == "failed"]
    lines = lines[:SHOWN_FAILURES]
    place = results.timed_out or next(iter(results.waiting()), COLLECTING)
    if outcome == "timed_out":
        seconds = job.test_seconds if results.timed_out is not None else job.wall_seconds
        lines.append(f"{place}: took longer than {seconds:g} s")
    elif outcome == "crashed" or (outcome == "failed" and results.waiting()):
        lines.append(f"{place}: the process ended here")
    return lines
