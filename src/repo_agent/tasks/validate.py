"""Is a suite sound? Every known fix must pass its tests, and every untouched workspace must fail them. No model."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from repo_agent.errors import boundary
from repo_agent.sandbox.grade import grade
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.workspace import Workspace
from repo_agent.tasks import test_job
from repo_agent.tasks.cures import cures
from repo_agent.tasks.task import Suite, Task, as_text


@dataclass(frozen=True, slots=True)
class Validation:
    """Counts over a suite, and what is odd, one entry a finding: {"task", "what"}."""

    tasks: int
    fix_passes: int
    untouched_fails: int
    odd: list[dict[str, str]]
    no_fix: int = 0
    """Tasks without a known fix: for these only the untouched state was graded."""
    unproven: list[dict[str, str]] = field(default_factory=list)
    """What the tests of those said: {"task", "what"}. Nobody else can tell whether they fail for the right reason."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    """Tasks that are sound, but need other settings than the default: {"task", "what"}."""
    cures: list[dict[str, str]] = field(default_factory=list)
    """Edits of the suite file that what is odd may need, each once: {"cure", "tasks"}."""


async def validate(
    suite: Suite,
    isolation: Isolation,
    jobs: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
    isolated_io: bool = False,
    most_chars: int | None = None,
) -> Validation:
    """Grade every task untouched and with its fix, at most `jobs` at once; `on_progress(done, of)` after each grade.

    `most_chars`: warn of every file of a fix that is longer, before it or after; None: of none.
    Raises InfraError where the grader itself fails.
    """
    slots = asyncio.Semaphore(jobs)
    done = 0

    async def bounded(task: Task, changes: Mapping[str, str]) -> Grade:
        nonlocal done
        async with slots:
            result = await _grade(task, changes, isolation, isolated_io)
        done += 1
        if on_progress:
            on_progress(done, total)
        return result

    fixes = [(task, task.fix) for task in suite.tasks if task.fix is not None]
    total = len(suite.tasks) + len(fixes)
    work = [bounded(task, {}) for task in suite.tasks] + [bounded(task, fix) for task, fix in fixes]
    grades = await asyncio.gather(*work)
    after = {task.id: result for (task, _), result in zip(fixes, grades[len(suite.tasks) :], strict=True)}
    warnings = [] if most_chars is None else list(_long_files(suite, most_chars))
    return replace(_summary(suite, grades[: len(suite.tasks)], after), warnings=warnings)


async def _grade(task: Task, changes: Mapping[str, str], isolation: Isolation, isolated_io: bool) -> Grade:
    with boundary("grade"), Workspace({**task.files, **changes}) as workspace:
        return await grade(workspace.root, test_job(task, isolated_io), isolation)


def _long_files(suite: Suite, most_chars: int) -> Iterator[dict[str, str]]:
    for task in suite.tasks:
        for path, text in sorted((task.fix or {}).items()):
            longest = max(len(text), len(as_text(task.files.get(path, ""))))
            if longest > most_chars:
                size = f"the fix rewrites {path}, which has {longest:,} characters"
                bound = f"by default a read shows {most_chars:,}, and a reply carries about as many"
                remedy = "(raise --read-chars and --max-tokens, or leave the task out)"
                yield {"task": task.id, "what": f"{size}: {bound}\n{remedy}"}


def _summary(suite: Suite, untouched: list[Grade], fixed: Mapping[str, Grade]) -> Validation:
    odd = []
    for task, before in zip(suite.tasks, untouched, strict=True):
        after = fixed.get(task.id)
        if before.outcome == "passed":
            odd.append({"task": task.id, "what": f"untouched: {before.output}\n{_WHY_PASSED}"})
        elif before.outcome == "no_tests" or _did_not_start(task, before):
            odd.append({"task": task.id, "what": f"untouched: {before.output}"})
        if after is not None and after.outcome != "passed":
            odd.append({"task": task.id, "what": f"with its fix: {after.output}"})
        odd += [{"task": task.id, "what": text} for text in _readable_fixes(task)]
    unproven = [
        {"task": task.id, "what": before.output}
        for task, before in zip(suite.tasks, untouched, strict=True)
        if task.fix is None
    ]
    return Validation(
        tasks=len(suite.tasks),
        fix_passes=sum(result.outcome == "passed" for result in fixed.values()),
        untouched_fails=sum(
            result.outcome not in ("passed", "no_tests") and not _did_not_start(task, result)
            for task, result in zip(suite.tasks, untouched, strict=True)
        ),
        odd=odd,
        no_fix=len(suite.tasks) - len(fixed),
        unproven=unproven,
        cures=cures((suite.by_id[entry["task"]], entry["what"]) for entry in [*odd, *unproven]),
    )


SHORTEST_FIX = 20
"""Characters of what it changes, with the lines around it; less is alike by chance."""
_WHY_PASSED = "(no test notices the bug, or the bug is not there)"


def _did_not_start(task: Task, grade: Grade) -> bool:
    """Whether a command ended with what a shell gives for a program that is not there, or cannot be run."""
    return bool(task.command) and grade.output.startswith(("exit code 127", "exit code 126"))


def _readable_fixes(task: Task) -> list[str]:
    """Where in its own workspace a task's fix can be read: in a copy of the file, or in a diff."""
    found = []
    for path, text in (task.fix or {}).items():
        blocks = _blocks(as_text(task.files.get(path, "")), text)
        if sum(map(len, blocks)) >= SHORTEST_FIX:
            found += [
                (path, name) for name, held in task.files.items() if name != path and _holds(as_text(held), blocks)
            ]
    return [f"the fix of {path} can be read in {name}\n(leave that out with `exclude`)" for path, name in found]


def _blocks(before: str, after: str) -> list[str]:
    """What a fix changes, each with the line before and after it."""
    old, new = _stripped(before.split("\n")), _stripped(after.split("\n"))
    changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return ["\n".join(new[max(0, a - 1) : b + 1]) for kind, _, _, a, b in changes if kind != "equal" and b > a]


def _holds(text: str, blocks: list[str]) -> bool:
    """Whether a text, or either side of the diff that it may be, holds every block."""
    lines = text.split("\n")
    sides = [lines, *([line[1:] for line in lines if not line.startswith(sign)] for sign in "+-")]
    return any(all(f"\n{block}\n" in whole for block in blocks) for whole in map(_whole, sides))


def _whole(lines: list[str]) -> str:
    return "\n" + "\n".join(_stripped(lines)) + "\n"


def _stripped(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip()]
