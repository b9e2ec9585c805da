"""Steps to one row a trajectory: weight 1 on every kept assistant turn, 0 on all else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from repo_agent.data.steps import Step
from repo_agent.messages import Message


@dataclass(frozen=True)
class Trajectory:
    """The messages up to the last kept turn; `kept` are the indices of the targets, one for each of `steps`."""

    id: str
    messages: tuple[Message, ...]
    kept: tuple[int, ...]
    steps: tuple[Step, ...]


def merge(steps: Iterable[Step]) -> list[Trajectory]:
    """One row for each rollout's steps; a further one where a context does not go on from the turn before it."""
    rows: list[Trajectory] = []
    for (run, trace), rollout in groupby(steps, key=lambda step: (step.run, step.trace)):
        parts: list[Trajectory] = []
        for step in rollout:
            before = parts[-1] if parts else None
            if before and step.context[: len(before.messages)] == before.messages:
                parts[-1] = _extended(before, step)
            else:
                row_id = f"{run}/{trace}#{len(parts)}"
                parts.append(_extended(Trajectory(row_id, (), (), ()), step))
        rows += parts
    return rows


def _extended(row: Trajectory, step: Step) -> Trajectory:
    messages = (*step.context, step.target)
    return Trajectory(row.id, messages, (*row.kept, len(step.context)), (*row.steps, step))
