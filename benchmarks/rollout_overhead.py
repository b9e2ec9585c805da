"""Seconds a task of a whole rollout with an instant model, tests contained, beside a bare pytest of the same test.

    python benchmarks/rollout_overhead.py --quixbugs PATH [--tasks N]

A rollout reads the program, writes its known fix, is shown the tests and stops; the trace is written. The bare run is
`python -m pytest -q TEST` on the same fixed files, plug-in autoload off, without any isolation. Both take turns, task
by task, one at a time; then the rollouts again with one and with two jobs. Medians and means are over tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from repo_agent.agent.spec import AgentSpec
from repo_agent.messages import ToolCall
from repo_agent.models import Model, Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.episode import Setting, play_all
from repo_agent.rollout.runner import Watch
from repo_agent.sandbox.canary import choose
from repo_agent.sandbox.workspace import put_files
from repo_agent.tasks.quixbugs import quixbugs_suite
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry
from repo_agent.traces.events import RunEnd
from repo_agent.traces.store import RunDir

PREDECESSOR = 1.05
"""Seconds a task of a public harness without isolation, on the same tasks and machine kind."""


def instant(task: Task) -> Model:
    """A model that reads, writes the fix and stops, at once."""
    protocol, (path, text) = PROTOCOLS["json"], next(iter((task.fix or {}).items()))
    read = protocol.render_call(ToolCall("read_file", {"rel_path": path, "max_chars": 4000}))
    write = protocol.render_call(ToolCall("write_file", {"rel_path": path, "content": text}))
    return Scripted([read, write, protocol.render_final("fixed")])


def played(tasks: list[Task], setting: Setting, jobs: int) -> float:
    """Seconds of one rollout of each task."""
    ends = _Failed()
    with tempfile.TemporaryDirectory() as folder:
        run, started = RunDir.open(Path(folder, "run"), {"benchmark": True}), time.perf_counter()
        asyncio.run(play_all(tasks, 1, lambda task, number: instant(task), setting, run, jobs, watch=ends))
        seconds = time.perf_counter() - started
    assert not ends.failed, f"did not pass: {ends.failed}"
    return seconds


class _Failed(Watch):
    def __init__(self) -> None:
        self.failed: list[str] = []

    def end(self, task: str, number: int, end: RunEnd) -> None:
        if not end.passed:
            self.failed.append(task)


def bare(task: Task) -> float:
    """Seconds of a plain pytest on the fixed files."""
    with tempfile.TemporaryDirectory() as folder:
        put_files(Path(folder), {**task.files, **(task.fix or {}), **task.hidden})
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", *task.test_args, *task.tests]
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of a rollout over a bare pytest.")
    parser.add_argument("--quixbugs", type=Path, default=Path("../QuixBugs"), help="A checkout of jkoppel/QuixBugs.")
    parser.add_argument("--tasks", type=int, default=40)
    options = parser.parse_args()
    if not options.quixbugs.is_dir():
        print(f"skipped: no checkout of jkoppel/QuixBugs at {options.quixbugs}; give --quixbugs PATH")
        return
    tasks = list(quixbugs_suite(options.quixbugs).tasks)[: options.tasks]
    layer = choose()
    setting = Setting(
        suite="quixbugs",
        arm="instant",
        model="scripted",
        spec=AgentSpec(default_registry(), PROTOCOLS["json"]),
        sampling=Sampling(),
        seed=0,
        constrain=False,
        isolation=layer,
    )
    played(tasks[:1], setting, 1), bare(tasks[0])  # what is loaded once is not counted
    pairs = [(bare(task), played([task], setting, 1)) for task in tasks]
    plain, ours = ([pair[column] for pair in pairs] for column in (0, 1))
    one, two = played(tasks, setting, 1), played(tasks, setting, 2)
    print(f"layer {layer.name}, {len(tasks)} tasks, {os.cpu_count()} cores; seconds a task")
    print(f"{'':26}{'mean':>8}{'median':>8}")
    for name, values in (("bare pytest", plain), ("rollout, contained", ours)):
        print(f"{name:26}{statistics.mean(values):8.3f}{statistics.median(values):8.3f}")
    print(f"{'ratio':26}{statistics.mean(ours) / statistics.mean(plain):8.2f}", end="")
    print(f"{statistics.median(ours) / statistics.median(plain):8.2f}")
    print(f"{'predecessor, bare (facts)':26}{PREDECESSOR:8.3f}")
    print(f"all tasks: --jobs 1 {one:.1f} s ({one / len(tasks):.3f} a task), --jobs 2 {two:.1f} s: {one / two:.2f} x")


if __name__ == "__main__":
    main()
