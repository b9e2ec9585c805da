"""A task, a suite, and the split into train and held-out."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath

from repo_agent.errors import UserError
from repo_agent.messages import digest, tilde
from repo_agent.sandbox.cases import Cases
from repo_agent.sandbox.grade import CONFIG_FILES
from repo_agent.sandbox.workspace import Files
from repo_agent.tasks.comparing import comparing_classes

HELD_OUT_SHARE = 3 / 8
RUNNERS = frozenset(
    "Makefile makefile GNUmakefile justfile Justfile noxfile.py Taskfile.yml Taskfile.yaml package.json".split()
)
"""Names of files that say what a test command does."""


@dataclass(frozen=True)
class Task:
    """One repair task. Paths are relative to the repository root and use `/`."""

    id: str
    goal: str
    """What the model is told, after `GOAL:`."""
    files: Files
    """The workspace as the model first sees it, test files included; bytes where a file is not UTF-8."""
    tests: tuple[str, ...]
    """Test files, folders or node ids that pytest runs, in order."""
    pristine: tuple[str, ...] = ()
    """Files restored to their first text before every test run: the tests, their data, conftest files."""
    fix: Mapping[str, str] | None = None
    """Known-good texts of the files that the fix changes; never in the workspace. None: no fix is known."""
    group: str = ""
    """Tasks of one group fall on the same side of the split; "" means the id."""
    test_args: tuple[str, ...] = ()
    """More pytest arguments."""
    test_seconds: float = 3.0
    """Time limit of one test."""
    hidden: Files = field(default_factory=dict)
    """Files that exist only while tests run (a conftest that the tests need); the model never sees them."""
    command: tuple[str, ...] = ()
    """A test command that is neither pytest nor unittest: its exit code counts. Empty: pytest on `tests`."""
    python: str = ""
    """Path of the interpreter that runs the tests; empty: ours."""
    pythonpath: tuple[str, ...] = ()
    """Folders of the workspace that are put on sys.path before the tests, such as "src"."""
    writable: tuple[str, ...] = ()
    """Patterns (fnmatch: `*` matches `/` too) of the files that the model may write; empty: it may write every file,
    and those that are restored count for nothing."""
    wall_seconds: float = 30.0
    """Time limit of a whole test run."""
    memory_mb: int = 1024
    """Memory of a whole test run, in MiB; the address space of each of its processes too."""
    cases: Cases | None = None
    """Calls with known results, from the task's own data; `--isolated-io` judges by them."""

    @property
    def split_group(self) -> str:
        return self.group or self.id

    @cached_property
    def put_back(self) -> frozenset[str]:
        """The files that get their first content before every test run: `pristine`, test files, configuration of pytest
        and Python, where `writable` says what may be written everything else, and where it does not the files that say
        what a command does."""
        own = {*self.pristine, *(test.partition("::")[0] for test in self.tests)}
        if self.command and not self.writable:
            own |= {name for name in self.files if self._runs(name)} - set(self.fix or ())
        return frozenset(
            name
            for name in self.files
            if name in own or PurePosixPath(name).name in CONFIG_FILES or not may_write(name, self.writable)
        )

    def _runs(self, name: str) -> bool:
        """Whether a file belongs to a task runner, or the command names it and it is not Python to be repaired."""
        path = PurePosixPath(name)
        words = (word.removeprefix("./") for part in self.command for word in re.split(r"[\s;&|<>()'\"=]+", part))
        named = path.suffix != ".py" and any(word and f"/{name}".endswith(f"/{word}") for word in words)
        return named or path.name in RUNNERS

    @cached_property
    def comparing(self) -> frozenset[str]:
        """`path::Class` of the classes that compare by methods of their own, in the files or in the fix."""
        return comparing_classes([*self.files.items(), *(self.fix or {}).items()])

    @cached_property
    def moves(self) -> bool:
        """Whether the program, as it is or fixed, changes the working folder."""
        programs = [*self.files.items(), *(self.fix or {}).items()]
        return any("chdir" in text for name, text in programs if name.endswith(".py") and isinstance(text, str))

    @cached_property
    def hash(self) -> str:
        """Hash of all that a rollout on this task depends on; the fix is left out."""
        record = {
            "id": self.id,
            "goal": self.goal,
            "files": _hashable(self.files),
            "hidden": _hashable(self.hidden),
            "tests": list(self.tests),
            "pristine": list(self.pristine),
            "args": list(self.test_args),
            "seconds": self.test_seconds,
        }
        # Only where they say something: a task that uses none of them keeps its hash.
        rare = {
            "command": list(self.command),
            "python": tilde(self.python),
            "pythonpath": list(self.pythonpath),
            "writable": list(self.writable),
            "wall_seconds": self.wall_seconds if self.wall_seconds != Task.wall_seconds else None,
            "memory_mb": self.memory_mb if self.memory_mb != Task.memory_mb else None,
        }
        return digest(record | {key: value for key, value in rare.items() if value})


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

        Default: three eighths of the groups, rounded up, and none of one group alone. Raises UserError for a count that
        leaves nothing to train on.
        """
        groups = sorted({task.split_group for task in self.tasks}, key=_rank)
        share = min(math.ceil(len(groups) * HELD_OUT_SHARE), len(groups) - 1)
        count = share if held_out is None else held_out
        if not 0 <= count < len(groups):
            remedy = f"Give 0 to {len(groups) - 1} of its {len(groups)} groups" if share else "It has one group alone"
            raise UserError(f"cannot hold out {count} groups of suite {self.spec}", "--held-out", remedy)
        chosen = set(groups[:count])
        held = tuple(task.id for task in self.tasks if task.split_group in chosen)
        return Split(tuple(task.id for task in self.tasks if task.split_group not in chosen), held)


def may_write(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a model may write the file, by a task's `writable`."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def as_text(content: str | bytes) -> str:
    """A file's content as a tool shows it."""
    return content if isinstance(content, str) else content.decode(errors="replace")


def _hashable(files: Files) -> dict[str, object]:
    """The texts themselves; of bytes their SHA-256."""
    return {
        name: content if isinstance(content, str) else {"sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }


def _rank(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()
