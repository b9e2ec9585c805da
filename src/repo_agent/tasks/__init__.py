"""Suites by name, and what a task's tests need to run.

A new suite is a file with a function that gives a `Suite`, and a line in `SUITES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from repo_agent.errors import UserError
from repo_agent.sandbox.grade import CONFIG_FILES, TestJob
from repo_agent.tasks.bundled import bundled_suite
from repo_agent.tasks.quixbugs import quixbugs_suite
from repo_agent.tasks.task import Suite, Task


def load_suite(spec: str) -> Suite:
    """The suite that a spec such as `micro=3` names; see `list_suites`.

    Raises UserError for an unknown suite, and for a value that the suite cannot take.
    """
    name, _, value = spec.partition("=")
    if name not in SUITES:
        known = ", ".join(kind.usage for kind in SUITES.values())
        raise UserError(f"unknown suite {spec!r}", "--suite", f"Known: {known}")
    return SUITES[name].load(value)


def list_suites() -> list[tuple[str, str]]:
    """(spec to give to `--suite`, one line of help) of every suite."""
    return [(kind.usage, kind.help) for kind in SUITES.values()]


def test_job(task: Task) -> TestJob:
    """What `grade` runs for a task: its tests, data and configuration files are put back to their first text."""
    own = {*task.pristine, *task.tests, *(name for name in task.files if PurePosixPath(name).name in CONFIG_FILES)}
    return TestJob(
        tests=task.tests,
        pristine={name: text for name, text in task.files.items() if name in own},
        hidden=task.hidden,
        args=task.test_args,
        test_seconds=task.test_seconds,
    )


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


SUITES = {
    "micro": _Kind("micro[=SEED]", "small one-line repairs, generated from a seed; for the demo", _micro),
    "bundled": _Kind("bundled", "repair tasks in several layouts that come with the package", _bundled),
    "quixbugs": _Kind("quixbugs=PATH", "40 classic algorithms with one bug each; PATH is a checkout", _quixbugs),
}
