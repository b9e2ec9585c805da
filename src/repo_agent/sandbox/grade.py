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
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.results import End, Grade, Results, records, verdict
from repo_agent.sandbox.workspace import put_files, regular_files

RUNNER = Path(__file__).with_name("runner.py")
PYTEST_FILES = ("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg")
CONFIG_FILES = frozenset((*PYTEST_FILES, "pyproject.toml", "sitecustomize.py", "usercustomize.py"))
"""Names by which a file changes how pytest or Python start."""


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
        return verdict(Results(records(results), marker, scratch), end, job.test_seconds, job.wall_seconds)


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


async def _run(scratch: Path, results: IO[bytes], wall_seconds: float, isolation: Isolation) -> End:
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


async def _end(process: asyncio.subprocess.Process, started: int, wall_seconds: float) -> End:
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
        return End(late, bool(os.read(started, 1)), code, complaint.decode(errors="replace"))
    return End(late, False, code, complaint.decode(errors="replace"))


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
