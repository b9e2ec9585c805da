"""Seconds of a whole rollout with an instant model, tests contained, beside a bare pytest of the same test.

    python benchmarks/rollout_overhead.py --quixbugs PATH [--tasks N]

A rollout reads the program, writes its known fix, is shown the tests and stops; the trace is written. The first of a
task runs the tests twice. The bare run is `python -m pytest -q TEST` on the same fixed files, plug-in autoload off,
without any isolation. They take turns, task by task, one at a time; then the rollouts again with one and with two
jobs. Medians and means are over tasks, by the clock and, where root can make a control group, in processor time, which
other programs change less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repo_agent.agent.spec import AgentSpec
from repo_agent.messages import ToolCall
from repo_agent.models import Model, Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.episode import Setting, play_all
from repo_agent.rollout.runner import Watch
from repo_agent.sandbox import warm
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


@dataclass(frozen=True)
class Cost:
    """Seconds; `processor` is that of all processes, None where it is not measured."""

    clock: float
    processor: float | None

    @classmethod
    def now(cls) -> Cost:
        used = GROUP / "cpu.stat"
        return cls(time.perf_counter(), int(used.read_text().split()[1]) / 1e6 if used.exists() else None)

    def since(self) -> Cost:
        now = Cost.now()
        both = None not in (now.processor, self.processor)
        return Cost(now.clock - self.clock, now.processor - self.processor if both else None)  # type: ignore[operator]


UNIFIED = Path("/sys/fs/cgroup/unified")
GROUP = (UNIFIED if UNIFIED.is_dir() else UNIFIED.parent) / f"repo-agent-benchmark-{os.getpid()}"


@contextlib.contextmanager
def metered() -> Iterator[None]:
    """In a control group of its own, whose processor time the kernel counts."""
    try:
        GROUP.mkdir()
        (GROUP / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        warm.close()
        (GROUP.parent / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):
            GROUP.rmdir()


def played(tasks: list[Task], setting: Setting, jobs: int) -> Cost:
    """What one rollout of each task takes."""
    ends = _Failed()
    with tempfile.TemporaryDirectory() as folder:
        run, started = RunDir.open(Path(folder, "run"), {"benchmark": True}), Cost.now()
        asyncio.run(play_all(tasks, 1, lambda task, number: instant(task), setting, run, jobs, watch=ends))
        cost = started.since()
    assert not ends.failed, f"did not pass: {ends.failed}"
    return cost


class _Failed(Watch):
    def __init__(self) -> None:
        self.failed: list[str] = []

    def end(self, task: str, number: int, end: RunEnd) -> None:
        if not end.passed:
            self.failed.append(task)


def bare(task: Task) -> Cost:
    """What a plain pytest on the fixed files takes."""
    with tempfile.TemporaryDirectory() as folder:
        put_files(Path(folder), {**task.files, **(task.fix or {}), **task.hidden})
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", *task.test_args, *task.tests]
        started = Cost.now()
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        return started.since()


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of a rollout over a bare pytest.")
    parser.add_argument("--quixbugs", type=Path, default=Path("../QuixBugs"), help="A checkout of jkoppel/QuixBugs.")
    parser.add_argument("--tasks", type=int, default=39)
    options = parser.parse_args()
    if not options.quixbugs.is_dir():
        print(f"skipped: no checkout of jkoppel/QuixBugs at {options.quixbugs}; give --quixbugs PATH")
        return
    tasks = list(quixbugs_suite(options.quixbugs).tasks)[: options.tasks + 1]
    with metered():
        measure(tasks[0], tasks[1:])


def measure(warming: Task, tasks: list[Task]) -> None:
    """What is loaded once is not counted: the first task is for it."""
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
    played([warming], setting, 1), bare(warming)
    rows = [(bare(task), played([task], setting, 1), played([task], setting, 1)) for task in tasks]
    one, two = played(tasks, setting, 1).clock, played(tasks, setting, 2).clock
    print(f"layer {layer.name}, {len(tasks)} tasks, {os.cpu_count()} cores; seconds")
    print(f"{'':24}{'mean':>8}{'median':>8}{'x bare':>8}{'processor':>12}{'x bare':>8}")
    for name, column in (("bare pytest", 0), ("first rollout of a task", 1), ("every further one", 2)):
        costs, plain = [row[column] for row in rows], [row[0] for row in rows]
        clock, base = (statistics.mean(cost.clock for cost in part) for part in (costs, plain))
        print(f"{name:24}{clock:8.3f}{statistics.median(cost.clock for cost in costs):8.3f}{clock / base:8.2f}", end="")
        used, least = (statistics.mean(cost.processor or 0.0 for cost in part) for part in (costs, plain))
        print(f"{used:12.3f}{used / least:8.2f}" if least else f"{'-':>12}{'-':>8}")
    print(f"{'predecessor (facts)':24}{PREDECESSOR:8.3f}")
    print(f"all tasks: --jobs 1 {one:.1f} s ({one / len(tasks):.3f} a task), --jobs 2 {two:.1f} s: {one / two:.2f} x")


if __name__ == "__main__":
    main()
