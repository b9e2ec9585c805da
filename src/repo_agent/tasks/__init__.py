"""Suites by name, and what a task's tests need to run.

A new suite is a file with a function that gives a `Suite`, and a line in `SUITES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from repo_agent.errors import UserError
from repo_agent.escape import name_fault, visible
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.watch import Bounds
from repo_agent.tasks.bundled import bundled_suite
from repo_agent.tasks.humanevalfix import humanevalfix_suite
from repo_agent.tasks.quixbugs import quixbugs_suite
from repo_agent.tasks.task import Suite, Task


def load_suite(spec: str) -> Suite:
    """The suite that a spec such as `micro=3` names; see `list_suites`; a path that ends in .toml or .json too.

    Raises UserError for an unknown suite, and for a value that the suite cannot take.
    """
    name, _, value = spec.partition("=")
    if name not in SUITES and spec.endswith((".toml", ".json")):
        return _named(_repository(spec))
    if name not in SUITES:
        known = ", ".join(kind.usage for kind in SUITES.values())
        raise UserError(f"unknown suite {spec!r}", "--suite", f"Known: {known}, or a path that ends in .toml or .json")
    return _named(SUITES[name].load(value))


def list_suites() -> list[tuple[str, str]]:
    """(spec to give to `--suite`, one line of help) of every suite."""
    return [(kind.usage, kind.help) for kind in SUITES.values()]


def listing(suite: Suite) -> dict[str, Any]:
    """Spec and hash of a suite, and of each task its id, side of the default split, number of files and goal."""
    held = set(suite.split().held_out)
    rows = [
        {"id": t.id, "side": "held-out" if t.id in held else "train", "files": len(t.files), "goal": t.goal}
        for t in suite.tasks
    ]
    return {"suite": suite.spec, "hash": suite.hash, "tasks": rows}


def workspace_of(suite: Suite, task_id: str) -> dict[str, list[str] | str]:
    """What a model gets of a task: its goal, and the paths in its workspace; those that it may not change, or that are
    restored before the tests, apart. Raises UserError for a task that is not there."""
    task = suite.by_id.get(task_id)
    if task is None:
        near = get_close_matches(task_id, suite.by_id, 3) or list(suite.by_id)[:3]
        known = f"Known: {', '.join(near)}" + (
            f" and {len(suite.by_id) - len(near)} more" * (len(suite.by_id) > len(near))
        )
        raise UserError(f"no such task {task_id!r}", suite.spec, known)
    free = [name for name in task.files if name not in task.put_back]
    return {"task": task.id, "goal": task.goal, "files": free, "put_back": sorted(task.put_back)}


def test_job(task: Task, isolated_io: bool = False) -> TestJob:
    """What `grade` runs for a task; the files of `Task.put_back` get their first content.

    With `isolated_io`, a task that has cases runs them instead of its tests.
    """
    return TestJob(
        tests=task.tests,
        pristine={name: content for name, content in task.files.items() if name in task.put_back},
        hidden=task.hidden,
        args=task.test_args,
        command=task.command,
        python=task.python,
        pythonpath=task.pythonpath,
        cases=task.cases if isolated_io else None,
        task=task.hash,
        original=task.files,
        own=_top_level_modules(task),
        comparing=task.comparing,
        moves=task.moves,
        test_seconds=task.test_seconds,
        bounds=Bounds(wall_seconds=task.wall_seconds, memory_bytes=task.memory_mb * 2**20),
    )


def _top_level_modules(task: Task) -> frozenset[str]:
    """Names by which the task's own Python files can be imported: from its root, the folders of its tests, and
    those of `pythonpath`."""
    python = [PurePosixPath(name) for name in task.files if name.endswith(".py")]
    roots = {PurePosixPath("."), *map(PurePosixPath, task.pythonpath)}
    roots |= {folder for name in task.put_back if name.endswith(".py") for folder in PurePosixPath(name).parents}
    below = [path.relative_to(root) for root in roots for path in python if path.is_relative_to(root)]
    return frozenset(path.with_suffix("").parts[0] for path in below)


def _named(suite: Suite) -> Suite:
    """The suite, where each task and group has a name that can be shown anywhere. Raises UserError."""
    for number, task in enumerate(suite.tasks, 1):
        for kind, name in (("id", task.id), ("group", task.split_group)):
            if fault := name_fault(name):
                where = f"{suite.spec}: task number {number}"
                raise UserError(f"its {kind} {visible(name[:40])!r} is no name: {fault}", where, "Give it another")
    return suite


test_job.__test__ = False  # type: ignore[attr-defined]  # pytest, on seeing the name


@dataclass(frozen=True, slots=True)
class _Kind:
    usage: str
    help: str
    load: Callable[[str], Suite]
    """Takes what follows `=`, or ""."""


def _micro(value: str) -> Suite:
    from repo_agent.tasks.micro import micro_suite

    if not (value or "0").isdecimal():
        raise UserError(f"{value!r} is no seed", "--suite micro=SEED", "Give a whole number from 0, as in micro=3")
    return micro_suite(int(value or "0"))


def _bundled(value: str) -> Suite:
    if value:
        raise UserError(f"the bundled suite takes no value, got {value!r}", "--suite bundled", "Give just `bundled`")
    return bundled_suite()


def _quixbugs(value: str) -> Suite:
    if not value:
        raise UserError("no path", "--suite quixbugs=PATH", "Give the path of a checkout of jkoppel/QuixBugs")
    return quixbugs_suite(Path(value).expanduser())


def _humanevalfix(value: str) -> Suite:
    if not value:
        raise UserError("no path", "--suite humanevalfix=PATH", "Give the JSONL of HumanEvalPack's Python tasks")
    return humanevalfix_suite(Path(value).expanduser())


def _repository(value: str, kind: str = "file") -> Suite:
    from repo_agent.tasks.repository import repository_suite

    if not value:
        raise UserError("no path", f"--suite {kind}=PATH", "Give a suite file, TOML or JSON")
    return repository_suite(Path(value).expanduser(), f"{kind}={value}", outside=kind == "outside")


def _outside(value: str) -> Suite:
    return _repository(value, "outside")


SUITES = {
    "micro": _Kind("micro[=SEED]", "small one-line repairs, generated from a seed; for the demo", _micro),
    "bundled": _Kind("bundled", "repair tasks in several layouts that come with the package", _bundled),
    "quixbugs": _Kind("quixbugs=PATH", "40 classic algorithms with one bug each; PATH is a checkout", _quixbugs),
    "humanevalfix": _Kind("humanevalfix=PATH", "164 functions with one bug each; PATH is its JSONL", _humanevalfix),
    "file": _Kind("file=PATH", "your own repositories: PATH is a suite file, .toml or .json", _repository),
    "outside": _Kind("outside=PATH", "such a file that you trust with what lies outside its own folder", _outside),
}
