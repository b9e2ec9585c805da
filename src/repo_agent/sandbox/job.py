"""What a grade is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from repo_agent.sandbox.cases import Cases
from repo_agent.sandbox.watch import Bounds
from repo_agent.sandbox.workspace import Files


@dataclass(frozen=True)
class TestJob:
    """What to run on a workspace, and within which limits. Paths are relative to the root and use `/`."""

    __test__ = False  # pytest, on seeing the name

    tests: tuple[str, ...]
    """Test files, folders or node ids, in order."""
    pristine: Mapping[str, str | bytes]
    """The task's own files that are restored before the tests run: path → content."""
    hidden: Mapping[str, str | bytes] = field(default_factory=dict)
    """Files that exist only while the tests run."""
    args: tuple[str, ...] = ()
    """More pytest arguments."""
    command: tuple[str, ...] = ()
    """Another test command, without a shell; its exit code counts. Empty: pytest."""
    cases: Cases | None = None
    """Compared here instead of running the tests."""
    python: str = ""
    """The interpreter that runs the tests; "" is ours."""
    pythonpath: tuple[str, ...] = ()
    """Folders of the workspace that imports are looked up in, after its root."""
    task: str = ""
    """What names the task among all others; "" where its tests cannot be counted beforehand."""
    original: Files = field(default_factory=dict)
    """The workspace as the task gives it: its tests are counted there."""
    own: frozenset[str] = frozenset()
    """Top-level module names that the task itself brings, though Python or pytest has them too."""
    comparing: frozenset[str] = frozenset()
    """The task's classes that define comparisons, as `path::Class`: their `==` is believed."""
    moves: bool = False
    """Whether the task's own program changes the working folder, which else counts as tampered."""
    test_seconds: float = 3.0
    """Processor time of one test, and a quarter of its time on the clock; the first test that reaches either ends the
    session. Collecting has this for each file."""
    bounds: Bounds = field(default_factory=Bounds)
    """Limits of the whole run, for what the limit of one test cannot stop."""

    @property
    def kind(self) -> str:
        return "cases" if self.cases else "command" if self.command else "pytest"
