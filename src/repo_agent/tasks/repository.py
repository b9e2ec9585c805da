"""Suites over a user's own repositories, from a suite file (TOML or JSON). docs/suites.md is its reference.

A task's workspace is a copy of a repository, with a bug laid over it where the file gives one. The fix is what the file
gives, else what the bug changed.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from repo_agent.errors import UserError
from repo_agent.sandbox.workspace import Files
from repo_agent.tasks.change import Change
from repo_agent.tasks.command import looks_like_test, parse_command
from repo_agent.tasks.source import Answers, Source
from repo_agent.tasks.task import Suite, Task, may_write

TEST_SECONDS, WALL_SECONDS = 10.0, 120.0
"""More than other suites have: the tests are unknown beforehand, and collecting them may load large libraries."""


class Settings(pydantic.BaseModel):
    """What a task or `[defaults]` may say."""

    model_config = pydantic.ConfigDict(extra="forbid")

    repo: str = ""
    test_cmd: str = "pytest"
    tests: list[str] | None = None
    writable: list[str] = []
    exclude: list[str] = []
    ignored: bool = False
    python: str = ""
    pythonpath: list[str] = []
    test_seconds: float = pydantic.Field(TEST_SECONDS, gt=0)
    wall_seconds: float = pydantic.Field(WALL_SECONDS, gt=0)
    memory_mb: int = pydantic.Field(Task.memory_mb, ge=64)


class Entry(Settings):
    """One task. `metadata` is anyone's: it is read by nothing and shown to no model."""

    id: str = pydantic.Field(validation_alias=pydantic.AliasChoices("id", "task_id"), min_length=1)
    goal: str = pydantic.Field(min_length=1)
    group: str = ""
    metadata: Any = None
    bug: dict[str, str] | None = None
    bug_dir: str | None = None
    bug_patch: str | None = None
    fix: dict[str, str] | None = None
    fix_dir: str | None = None
    fix_patch: str | None = None


class SuiteFile(pydantic.BaseModel):
    """The whole file."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = ""
    defaults: Settings = Settings()
    tasks: list[Entry] = pydantic.Field(min_length=1)


def repository_suite(path: Path, spec: str, *, outside: bool = False) -> Suite:
    """The tasks of the suite file at `path`, in its order.

    What a task names is read, copied and shown to a model, so without `outside` all of it must lie in the file's own
    folder. Raises UserError that names file, task and key.
    """
    file = _read(path)
    entries = [_with_defaults(entry, file.defaults) for entry in file.tasks]
    if not outside:
        _check_inside(path, entries)
    ids = [entry.id for entry in entries]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise UserError(f"more than one task has the id {', '.join(twice)}", str(path), "Give each its own")
    answers = _answers(path, entries)

    @cache
    def files_of(root: Path, exclude: tuple[str, ...], ignored: bool, where: str) -> Files:
        return Source(root, exclude, answers, ignored, where).files()

    first: dict[tuple[Any, ...], str] = {}

    tasks = []
    for entry in entries:
        if not entry.repo:
            raise UserError("repo is missing", _where(path, entry), "Give it here or in [defaults]")
        source = (Path(os.path.realpath(_place(path, entry.repo))), tuple(entry.exclude), entry.ignored)
        tasks.append(_task(path, entry, files_of(*source, first.setdefault(source, _where(path, entry)))))
    return Suite(spec, tuple(tasks))


def _read(path: Path) -> SuiteFile:
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Give a suite file, see docs/suites.md") from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UserError(f"not {kind}: {error}", str(path), "Correct the file") from error
    try:
        return SuiteFile.model_validate(raw)
    except pydantic.ValidationError as error:
        raise _refusal(path, raw, error.errors()[0]) from error


def _refusal(path: Path, raw: Any, detail: Mapping[str, Any]) -> UserError:
    """The first complaint of pydantic, as file, task, key, and what to do."""
    where, keys = str(path), list(detail["loc"])
    known: type[pydantic.BaseModel] = SuiteFile
    if keys[:1] == ["defaults"] and len(keys) > 1:
        where, keys, known = f"{path}: defaults", keys[1:], Settings
    elif keys[:1] == ["tasks"] and len(keys) > 1:
        entry = raw["tasks"][keys[1]]
        name = (entry.get("id") or entry.get("task_id")) if isinstance(entry, dict) else None
        where, keys, known = f"{path}: task {name or f'number {keys[1] + 1}'}", keys[2:], Entry
    key = ".".join(map(str, keys))
    if detail["type"] == "extra_forbidden":
        meant = difflib.get_close_matches(key, known.model_fields, 1)
        hint = f"Did you mean {meant[0]}? " if meant else ""
        return UserError(f"unknown key {key}", where, f"{hint}Known: {', '.join(known.model_fields)}")
    if detail["type"] == "missing":
        strange = [name for name in raw if name not in known.model_fields] if known is SuiteFile else []
        return UserError(f"{key} is missing", where, f"Is {strange[0]} meant?" if strange else "Add it")
    shape = _SHAPES.get(detail["type"], "")
    if not shape:
        return UserError(f"{key}: {detail['msg']}", where, "Correct it")
    hint = f". For a file's name use {key}_patch or {key}_dir" if key in ("bug", "fix") else ""
    return UserError(f"{key or 'the whole'} is no {shape[0]}", where, f"Write it as {shape[1]}{hint}")


_SHAPES = {
    "list_type": ("list", '["a", "b"]'),
    "dict_type": ("table", '{ "path" = "text" }'),
    "model_type": ("table", "tasks and defaults, see docs/suites.md"),
    "model_attributes_type": ("table", "tasks and defaults, see docs/suites.md"),
    "string_type": ("text", '"…"'),
}
"""Pydantic's names of what is wrong → what was expected, and how it is written."""


def _with_defaults(entry: Entry, defaults: Settings) -> Entry:
    given = {key: getattr(defaults, key) for key in defaults.model_fields_set - entry.model_fields_set}
    return entry.model_copy(update=given)


def _where(path: Path, entry: Entry) -> str:
    return f"{path}: task {entry.id}"


def _place(path: Path, relative: str) -> Path:
    """A path of the suite file: relative to the file, ~ for the home folder."""
    return path.parent / Path(relative).expanduser()


def _check_inside(path: Path, entries: Sequence[Entry]) -> None:
    folder = os.path.realpath(path.parent)
    for entry in entries:
        for key in ("repo", *(f"{name}_{form}" for name in ("bug", "fix") for form in ("dir", "patch"))):
            place = getattr(entry, key)
            if place and not Path(os.path.realpath(_place(path, place))).is_relative_to(folder):
                remedy = f"If you trust the file with it, give --suite outside={path}"
                raise UserError(f"{key} = {place!r} lies outside of the file's folder", _where(path, entry), remedy)


def _change(path: Path, entry: Entry, name: str) -> Change:
    texts, folder, patch = (getattr(entry, f"{name}{form}") for form in ("", "_dir", "_patch"))
    places = (None if place is None else _place(path, place) for place in (folder, patch))
    return Change(name, texts, *places)


def _answers(path: Path, entries: Sequence[Entry]) -> Answers:
    """What gives a bug or a fix away: the suite file, and what its tasks name."""
    changes = [_change(path, entry, name) for entry in entries for name in ("bug", "fix")]
    places = [path, *(place for one in changes for place in (one.folder, one.patch) if place is not None)]
    real = [Path(os.path.realpath(place)) for place in places]
    contents = frozenset(place.read_bytes() for place in real if place.is_file())
    return Answers(frozenset(real), Path(os.path.abspath(path)), contents - {b""})


def _task(path: Path, entry: Entry, good: Files) -> Task:
    where = _where(path, entry)
    bug, fix = _change(path, entry, "bug"), _change(path, entry, "fix")
    files = bug.apply(good, where)
    if bug.is_given and files == good:
        raise UserError("the bug changes nothing", where, "Is it in the repository already? Then leave it out")
    run = parse_command(entry.test_cmd, files, where)
    task = Task(
        id=entry.id,
        goal=entry.goal,
        files=dict(sorted(files.items())),
        tests=run.tests,
        pristine=_pristine(files, entry.tests, where),
        fix=_fix(files, fix.apply(files, where) if fix.is_given else good, fix.is_given, where),
        group=entry.group,
        test_args=run.args,
        test_seconds=entry.test_seconds,
        command=run.command,
        python=_interpreter(path, entry),
        pythonpath=(*map(_folder, entry.pythonpath), *run.pythonpath),
        writable=tuple(entry.writable),
        wall_seconds=entry.wall_seconds,
        memory_mb=entry.memory_mb,
    )
    _check(task, where)
    return task


def _pristine(files: Files, patterns: list[str] | None, where: str) -> tuple[str, ...]:
    """The files that are restored before every test run, in order."""
    if patterns is None:
        return tuple(sorted(filter(looks_like_test, files)))
    found = tuple(sorted(name for name in files if any(fnmatchcase(name, pattern) for pattern in patterns)))
    if not found:
        raise UserError(f"tests = {patterns} fits no file of the repository", where, "Correct the patterns")
    return found


def _fix(files: Files, after: Files, given: bool, where: str) -> dict[str, str] | None:
    """The texts that a fix changes or adds. None: none is known."""
    changed = {name: content for name, content in after.items() if files.get(name) != content}
    if given and set(files) - set(after):
        gone = ", ".join(sorted(set(files) - set(after)))
        raise UserError(f"the fix takes files away ({gone})", where, "No tool can; make the fix leave them")
    bytes_ = sorted(name for name in changed if not all(isinstance(at.get(name, ""), str) for at in (files, after)))
    if bytes_:
        what = f"the {'fix' if given else 'bug'} changes files that are not UTF-8 text ({', '.join(bytes_)})"
        raise UserError(what, where, "No tool can write them: convert them to UTF-8, or leave the task out")
    if given and not changed:
        raise UserError("the fix changes nothing", where, "Does the repository hold it already? Add the bug")
    texts = {name: content for name, content in changed.items() if isinstance(content, str)}
    return texts or None


def _check(task: Task, where: str) -> None:
    """Refuse a fix that the rules of the task would undo, and a folder of sys.path that is not there."""
    fix = set(task.fix or ())
    locked = sorted(name for name in fix if not may_write(name, task.writable))
    if locked:
        raise UserError(f"the fix changes {', '.join(locked)}, which writable does not allow", where, "Widen writable")
    undone = sorted(fix & task.put_back)
    if undone:
        what = f"the fix changes {', '.join(undone)}, which is restored before every test run"
        raise UserError(what, where, "Say with `tests` which files are tests, or leave it out of the fix")
    for folder in task.pythonpath:
        if folder != "." and not any(name.startswith(f"{folder}/") for name in task.files):
            raise UserError(f"pythonpath names {folder}, which is not in the repository", where, "Correct it")


def _folder(name: str) -> str:
    return name.removeprefix("./").rstrip("/") or "."


def _interpreter(path: Path, entry: Entry) -> str:
    """The interpreter's absolute path, its links kept: a virtual environment is known by them."""
    if not entry.python:
        return ""
    found = str(_place(path, entry.python)) if "/" in entry.python else shutil.which(entry.python)
    if not found or not os.access(found, os.X_OK):
        remedy = 'Give the python of an environment that has what the tests import, as in ".venv/bin/python"'
        raise UserError(f"python = {entry.python!r} is no program", _where(path, entry), remedy)
    return os.path.abspath(found)
