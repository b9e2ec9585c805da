"""A task, a suite, and the split into train and held-out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from repo_agent.errors import UserError
from repo_agent.messages import digest

HELD_OUT_SHARE = 3 / 8


@dataclass(frozen=True)
class Task:
    """One repair task. Paths are relative to the repository root and use `/`; texts are UTF-8."""

    id: str
    goal: str
    """What the model is told, after `GOAL:`."""
    files: Mapping[str, str]
    """The workspace as the model first sees it, test files included."""
    tests: tuple[str, ...]
    """Test files that pytest runs, in order."""
    pristine: tuple[str, ...] = ()
    """Files restored to their first text before every test run: the tests, their data, conftest files."""
    fix: Mapping[str, str] | None = None
    """Known-good texts of the files that the fix changes; never in the workspace. None: no fix is known."""
    group: str = ""
    """Tasks of one group fall on the same side of the split; "" means the id."""
    test_args: tuple[str, ...] = ()
    """Further pytest arguments."""
    test_seconds: float = 3.0
    """Time limit of one test."""
    hidden: Mapping[str, str] = field(default_factory=dict)
    """Files that exist only while tests run (a conftest that the tests need); the model never sees them."""

    @property
    def split_group(self) -> str:
        return self.group or self.id

    @cached_property
    def hash(self) -> str:
        """Hash of all that a rollout on this task depends on; the fix is left out."""
        return digest(
            {
                "id": self.id,
                "goal": self.goal,
                "files": dict(self.files),
                "hidden": dict(self.hidden),
                "tests": list(self.tests),
                "pristine": list(self.pristine),
                "args": list(self.test_args),
                "seconds": self.test_seconds,
            }
        )


@dataclass(frozen=True)
class Split:
    """Task ids of both sides, each in suite order."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A named list of tasks; `spec` is what the command line takes."""

    spec: str
    tasks: tuple[Task, ...]

    @cached_property
    def hash(self) -> str:
        return digest([task.hash for task in self.tasks])

    @cached_property
    def by_id(self) -> dict[str, Task]:
        return {task.id: task for task in self.tasks}

    def split(self, held_out: int | None = None) -> Split:
        """Rank the groups by the SHA-256 of their name; the first `held_out` groups are held out.

        Default: three eighths of the groups, rounded up. Raises UserError for a count that leaves a side empty.
        """
        groups = sorted({task.split_group for task in self.tasks}, key=_rank)
        count = math.ceil(len(groups) * HELD_OUT_SHARE) if held_out is None else held_out
        if not 0 < count < len(groups):
            remedy = f"Give 1 to {len(groups) - 1} of its {len(groups)} groups"
            raise UserError(f"cannot hold out {count} groups of suite {self.spec}", "--held-out", remedy)
        chosen = set(groups[:count])
        held = tuple(task.id for task in self.tasks if task.split_group in chosen)
        return Split(tuple(task.id for task in self.tasks if task.split_group not in chosen), held)


def _rank(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()
