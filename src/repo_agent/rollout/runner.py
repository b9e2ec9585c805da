"""Many rollouts into one run directory: concurrency, resume, stops, and who watches."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from repo_agent.errors import InfraError, UserError
from repo_agent.rollout.meter import Meter
from repo_agent.traces import events
from repo_agent.traces.store import RunDir
from repo_agent.traces.writer import TraceWriter

Rollouts = Sequence[tuple[str, int]]
"""(task id, rollout number) pairs."""
Play = Callable[[str, int, TraceWriter], Awaitable[events.RunEnd]]
"""Plays one rollout into its trace."""
MAX_ERRORS_IN_ROW = 5
"""After so many failures of ours one after another, or `jobs` where that is more, the run stops: something is wrong
that retrying will not cure."""
FILES_PER_JOB, OTHER_FILES = 4, 256
"""File descriptors: a trace, a connection and a workspace's file for each rollout; the rest is shared."""


class Watch:
    """Is called as a run goes, about long replies from other threads too; this one does nothing."""

    def start(self, total: int, done: int, turns: Mapping[str, int], meter: Meter) -> None:
        """`total` rollouts, `done` of them before, with `turns` of each class."""

    def event(self, event: events.Event) -> None:
        """Something happened in a rollout."""

    def end(self, task: str, number: int, end: events.RunEnd) -> None:
        """A rollout ended."""

    def stopping(self) -> None:
        """Ctrl-C was pressed once."""


async def run_rollouts(
    wanted: Rollouts,
    play: Play,
    run_dir: RunDir,
    jobs: int,
    meter: Meter | None = None,
    watch: Watch | None = None,
) -> list[tuple[str, int]]:
    """Play what is pending, `jobs` at a time, until the meter says stop. Returns what was left to other processes: they
    had claimed it, and once more when all else was done.

    Raises InfraError with the last cause when failures of ours come one after another, StoreError for a full disk.
    """
    meter, watch = meter or Meter(), watch or Watch()
    most_errors, errors_in_row = max(MAX_ERRORS_IN_ROW, jobs), 0
    taken: list[tuple[str, int]] = []

    async def work(waiting: Iterator[tuple[str, int]]) -> None:
        nonlocal errors_in_row
        for task_id, number in waiting:
            if meter.stopped:
                return
            writer = run_dir.claim(task_id, number)
            if writer is None:
                taken.append((task_id, number))
                continue
            end = await play(task_id, number, writer)
            errors_in_row = errors_in_row + 1 if end.ended == "error" else 0
            watch.end(task_id, number, end)
            if errors_in_row >= most_errors:
                raise InfraError("rollouts", f"{errors_in_row} in a row failed by our error; the last: {end.error}")

    async def work_off(wanted: Rollouts) -> list[tuple[str, int]]:
        pending = run_dir.pending(wanted)
        waiting = iter(pending)
        taken.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(jobs, len(pending))):
                group.create_task(work(waiting))
        return list(taken)

    return await work_off(await work_off(wanted))


def allow_files(jobs: int) -> None:
    """Raise this process's limit on open files to what `jobs` rollouts at once take.

    Raises UserError where the system does not allow so many.
    """
    needed = OTHER_FILES + FILES_PER_JOB * jobs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            most = (hard - OTHER_FILES) // FILES_PER_JOB
            remedy = f"Give --jobs {most} or fewer" if most > 0 else "Raise the hard limit (ulimit -Hn)"
            raise UserError(f"{jobs} rollouts at once take {needed} open files, {hard} are allowed", "--jobs", remedy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
