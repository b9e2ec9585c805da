"""The repair tasks that come with the package, one folder each below `bundled_tasks`; the folder's name is the id.

task.toml   goal = "..." · tests = ["tests/test_x.py"] · optional: group, pristine (files or patterns such as
            "tests/*"; default the tests), test_seconds
repo/       the workspace with the bug, tests included
fix/        the files that the fix changes or adds, under the same relative paths
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.sandbox.workspace import regular_files
from repo_agent.tasks.task import Suite, Task

FOLDER = Path(__file__).with_name("bundled_tasks")
REQUIRED = {"goal", "tests"}
OPTIONAL = {"group", "pristine", "test_seconds"}


def bundled_suite(folder: Path = FOLDER) -> Suite:
    """The tasks below `folder`, sorted by id. Raises UserError for a task that does not hold together."""
    tasks = tuple(_task(entry.parent) for entry in sorted(folder.glob("*/task.toml")))
    if not tasks:
        raise UserError("no task.toml in any folder here", str(folder), "Install the package again")
    return Suite("bundled", tasks)


def _task(folder: Path) -> Task:
    spec = _spec(folder / "task.toml")
    files, fix = _texts(folder / "repo"), _texts(folder / "fix")
    patterns = [*spec["tests"], *spec.get("pristine", ())]
    pristine = tuple(name for name in files if any(fnmatch(name, pattern) for pattern in patterns))
    _refuse(folder, "tests that are not in repo/", set(spec["tests"]) - set(files))
    _refuse(folder, "fix/ changes files that are restored before every test run", set(fix) & set(pristine))
    return Task(
        id=folder.name,
        goal=spec["goal"],
        files=files,
        tests=tuple(spec["tests"]),
        pristine=pristine,
        fix=fix or None,
        group=spec.get("group", ""),
        test_seconds=float(spec.get("test_seconds", Task.test_seconds)),
    )


def _spec(path: Path) -> dict[str, Any]:
    try:
        spec = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not TOML: {error}", str(path), "Correct the file") from error
    _refuse(path, "keys missing", REQUIRED - set(spec))
    _refuse(path, "unknown keys", set(spec) - REQUIRED - OPTIONAL)
    return spec


def _refuse(where: Path, what: str, names: set[str]) -> None:
    if names:
        raise UserError(f"{what}: {', '.join(sorted(names))}", str(where), "Correct the task")


def _texts(folder: Path) -> dict[str, str]:
    """Every text below `folder`, newlines as they are; what Python caches beside its sources is none."""
    sources = ((name, path) for name, path in regular_files(folder) if "__pycache__" not in path.parts)
    return {name: path.read_bytes().decode() for name, path in sources}
