"""Many rollouts into one run directory: concurrency, resume, progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from repo_agent.errors import InfraError
from repo_agent.models import Model
from repo_agent.rollout.episode import Setting, play
from repo_agent.tasks.task import Task
from repo_agent.traces import events
from repo_agent.traces.store import RunDir

OnEnd = Callable[[str, int, events.RunEnd], None]
ModelFor = Callable[[Task, int], Model]
"""The model that plays rollout `number` of a task."""
MAX_ERRORS_IN_ROW = 5
"""After so many failures of ours one after another the run stops: something is wrong that retrying will not cure."""


async def run_rollouts(
    tasks: Sequence[Task],
    rollouts: int,
    model_for: ModelFor,
    setting: Setting,
    run_dir: RunDir,
    jobs: int,
    on_end: OnEnd = lambda task, number, end: None,
) -> None:
    """Play what is owed, `jobs` at a time. What another process has claimed is left to it.

    Raises InfraError with the last cause when failures of ours come one after another.
    """
    by_id = {task.id: task for task in tasks}
    owed = iter(run_dir.owed([(task.id, number) for number in range(rollouts) for task in tasks]))
    errors_in_row = 0

    async def work() -> None:
        nonlocal errors_in_row
        for task_id, number in owed:
            writer = run_dir.claim(task_id, number)
            if writer is None:
                continue
            task = by_id[task_id]
            end = await play(task, number, model_for(task, number), setting, writer)
            errors_in_row = errors_in_row + 1 if end.ended == "error" else 0
            on_end(task_id, number, end)
            if errors_in_row >= MAX_ERRORS_IN_ROW:
                raise InfraError("rollouts", f"{errors_in_row} in a row failed by our error; the last: {end.error}")

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(work())
