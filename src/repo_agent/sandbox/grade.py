"""The verdict on a workspace: its tests run on a copy, contained, and each test is reported.

The tests never run in the model's workspace. In the copy the task's own files (tests, their data, conftest) come
first, and files that configure pytest or Python are left out unless they are the task's. The verdict is made of the
per-test results of `child/tests.py`, never of the exit code: `sys.exit(0)` in tested code passes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import secrets
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from repo_agent.errors import InfraError
from repo_agent.sandbox import supervise, warm
from repo_agent.sandbox.isolate import Interpreter, Isolation, Plan, interpreter, planned
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade, Results, counted, verdict
from repo_agent.sandbox.watch import MOST_DEPTH
from repo_agent.sandbox.workspace import Workspace, regular_files

PYTEST_FILES = ("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg")
CONFIG_FILES = frozenset((*PYTEST_FILES, "pyproject.toml", "sitecustomize.py", "usercustomize.py"))
"""Names by which a file changes how pytest or Python start."""

MOST_PATH_BYTES, MOST_PARTS = 3_000, MOST_DEPTH - 8
"""Of a file's name relative to the workspace; the kernel takes 4,096 in all."""
BLOCK, SPARE = 4096, 2**20
"""Bytes that a file takes at least, and that are left for what the runner itself writes."""


async def grade(root: Path, job: TestJob, isolation: Isolation) -> Grade:
    """Run the job's tests on a copy of the workspace at `root`, as many at once as there are processors.

    Raises InfraError where the runner itself does not start. What the tested code does, whatever it is, is a grade.
    """
    cancel = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(_threads(), grade_now, root, job, isolation, cancel)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([work])
        work.exception()  # looked at, or asyncio prints that nobody did
        raise


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="grade")


def grade_now(root: Path, job: TestJob, isolation: Isolation, cancel: threading.Event | None = None) -> Grade:
    """`grade`, in this thread."""
    files = dict(_files(root, job))
    folders = {parent for name in files for parent in PurePosixPath(name).parents}
    blocks = sum(-(-len(data) // BLOCK) for data in files.values()) + len(folders)
    if blocks * BLOCK > job.bounds.disk_bytes - SPARE or len(files) + len(folders) > job.bounds.files:
        return Grade("failed", 0, 0, 0, None, "the workspace is too large to be tested")
    if any(len(os.fsencode(name)) > MOST_PATH_BYTES or name.count("/") > MOST_PARTS for name in files):
        return Grade("failed", 0, 0, 0, None, "a path in the workspace is too long to be tested")
    cancel = cancel or threading.Event()
    end, key, scratch = _run(files, job, isolation, cancel)
    return verdict(job, end, key, scratch, _Given(job, isolation, cancel))


def _run(
    files: Mapping[str, bytes], job: TestJob, isolation: Isolation, cancel: threading.Event
) -> tuple[supervise.End, bytes, str]:
    """One contained run; how it ended, the key of its records, and the folder that it saw."""
    if warm.serves(isolation, job):
        with contextlib.suppress(warm.NotServed):
            return _run_once(files, job, isolation, cancel, is_warm=True)
    return _run_once(files, job, isolation, cancel, is_warm=False)


def _run_once(
    files: Mapping[str, bytes], job: TestJob, isolation: Isolation, cancel: threading.Event, is_warm: bool
) -> tuple[supervise.End, bytes, str]:
    python, key = interpreter(job.python), secrets.token_bytes(32)
    with planned(isolation, python, job.bounds.disk_bytes, is_warm) as plan, tempfile.TemporaryFile() as file:
        _write_job(file, files, _described(job, plan, files, key))
        environment = _environment(plan, python)
        start = warm.forked(plan, environment) if is_warm else supervise.fresh(plan.command, environment)
        try:
            end = supervise.run(plan, start, file, job.bounds, cancel)
        except OSError as error:
            raise InfraError("grade", f"cannot start {plan.command[0]}: {error}") from error
    if end.code == warm.LOST and not end.over and not cancel.is_set():
        raise InfraError("grade", "the server of test processes ended")
    return end, key, plan.scratch


_GIVEN: dict[tuple[str, ...], Results] = {}


@dataclass(frozen=True)
class _Given:
    """The tests on the task as it is given, asked once for each; of nothing where the job does not hold it."""

    job: TestJob
    isolation: Isolation
    cancel: threading.Event

    def counts(self) -> Mapping[str, int]:
        found = self._asked("--collect-only")
        return counted(self.job, found) if found else {}

    def passed(self) -> Collection[str]:
        found = self._asked()
        return found.passed() if found else ()

    def _asked(self, *args: str) -> Results | None:
        job, key = self.job, (self.job.task, self.isolation.name, *args)
        if job.task and key not in _GIVEN:
            asked = replace(job, args=(*job.args, *args))
            with Workspace(job.original) as workspace:
                end, mac, scratch = _run(dict(_files(workspace.root, job)), asked, self.isolation, self.cancel)
            if self.cancel.is_set():
                return None
            _GIVEN[key] = Results(end.results, mac, scratch)
        return _GIVEN.get(key)


def _files(root: Path, job: TestJob) -> Iterator[tuple[str, bytes]]:
    """What the copy holds: the task's own files, then the workspace's that neither configure nor stand in their way.

    In cases the tests and their data stay away, for they hold the expected values.
    """
    own = {name: _bytes(content) for name, content in {**job.pristine, **job.hidden}.items()}
    if not job.cases:
        yield from own.items()
    folders = {parent.as_posix() for name in own for parent in PurePosixPath(name).parents}
    for name, source in regular_files(root):
        path = PurePosixPath(name)
        # A folder of the model's where the task has a file, or the reverse: the task's stays.
        blocked = name in folders or any(parent.as_posix() in own for parent in path.parents)
        if name not in own and not blocked and not _is_left_out(path):
            yield name, source.read_bytes()


def _is_left_out(path: PurePosixPath) -> bool:
    cache_file = path.suffix == ".pyc" or not {"__pycache__", ".pytest_cache"}.isdisjoint(path.parts)
    return cache_file or path.name in CONFIG_FILES


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _described(job: TestJob, plan: Plan, files: Mapping[str, bytes], key: bytes) -> dict[str, Any]:
    bounds, own = job.bounds, {**job.pristine, **job.hidden}
    described: dict[str, Any] = {
        "kind": job.kind,
        "scratch": plan.scratch,
        "files": [[name, len(data), data.startswith(b"#!")] for name, data in files.items()],
        "key": key.hex(),
        "limits": {
            "AS": bounds.memory_bytes,
            "FSIZE": bounds.file_bytes,
            "NOFILE": bounds.open_files,
            "CPU": math.ceil(2 * bounds.wall_seconds),
        },
        "processes": bounds.processes,
        "read": plan.read,
        "write": plan.write,
        "filters": plan.filters,
        "calls": dict(plan.calls),
        "seccomp": plan.seccomp,
        "reap": plan.reaped,
        "seconds": job.test_seconds,
        "pythonpath": job.pythonpath,
    }
    if job.cases:
        calls = [case.arguments for case in job.cases.cases]
        return {**described, "module": job.cases.module, "function": job.cases.function, "arguments": calls}
    if job.command:
        return {**described, "command": job.command}
    with_unittest = any(b"unittest" in _bytes(content) or b"TestCase" in _bytes(content) for content in own.values())
    described |= {"tests": job.tests, "args": job.args, "pristine": list(own), "unittest": with_unittest}
    return {**described, "own": sorted(job.own), "comparing": sorted(job.comparing), "moves": job.moves}


def _write_job(file: IO[bytes], files: Mapping[str, bytes], described: Mapping[str, Any]) -> None:
    file.write(json.dumps(described).encode() + b"\n")
    for data in files.values():
        file.write(data)
    file.flush()
    file.seek(0)


def _environment(plan: Plan, python: Interpreter) -> dict[str, str]:
    """No variable of ours reaches the tests, keys least of all."""
    home = f"{plan.scratch}/home"
    return {
        "PATH": f"{Path(python.path).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LOGNAME": "repo-agent",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
