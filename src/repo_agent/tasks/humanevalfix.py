"""The 164 Python tasks of HumanEvalFix (MIT licence; arXiv 2308.07124), read from HumanEvalPack's JSONL.

A task's workspace holds one module, declaration and buggy body, and one test file: the dataset's own `check`, called
from a pytest test. Helper functions of the declaration that `check` calls stand in the test file too, so that what a
model makes of them does not decide.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.tasks.task import Suite, Task

FILE = "humanevalpack_python.jsonl"
REMEDY = f"Give {FILE} of bigcode/humanevalpack (github.com/bigcode-project/octopack), or its folder"
KEYS = ("task_id", "declaration", "buggy_solution", "canonical_solution", "test", "entry_point", "docstring")


def humanevalfix_suite(path: Path) -> Suite:
    """One task a line; `Python/7` becomes the id `Python-7`. Raises UserError for a file of another kind."""
    file = path / FILE if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot be read ({error})", str(file), REMEDY) from error
    tasks = tuple(_task(_row(line, f"{file}:{number}")) for number, line in enumerate(lines, 1) if line.strip())
    if not tasks:
        raise UserError("holds no task", str(file), REMEDY)
    return Suite(f"humanevalfix={path}", tasks)


def _row(line: str, where: str) -> dict[str, str]:
    try:
        row: Any = json.loads(line)
        values = {key: row[key] for key in KEYS}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"no task of HumanEvalPack ({type(error).__name__}: {error})", where, REMEDY) from error
    texts = all(isinstance(value, str) for value in values.values())
    # The entry point names files of the workspace.
    if not texts or not values["task_id"].startswith("Python/") or not values["entry_point"].isidentifier():
        raise UserError("no Python task of HumanEvalPack", where, REMEDY)
    return values


def _task(row: dict[str, str]) -> Task:
    name = row["entry_point"]
    program, test = f"{name}.py", f"test_{name}.py"
    return Task(
        id=row["task_id"].replace("/", "-"),
        goal=f"Fix the bug in {program}, so that its tests pass and {name} does this:\n{row['docstring'].strip()}",
        files={program: row["declaration"] + row["buggy_solution"], test: _test_text(row)},
        tests=(test,),
        pristine=(test,),
        fix={program: row["declaration"] + row["canonical_solution"]},
    )


def _test_text(row: dict[str, str]) -> str:
    """Import, helpers, the dataset's `check` without its last line, which calls it, and a test that calls it.

    Some checks draw random inputs; a fixed seed makes two runs on the same files give the same words.
    """
    name, call = row["entry_point"], f"check({row['entry_point']})"
    check = row["test"].strip().removesuffix(call).strip()
    parts = [f"from {name} import {name}", *_helpers(row, check), check]
    seed = "    random.seed(0)\n" if re.search(r"^\s+from random import", check, re.MULTILINE) else ""
    if seed:
        parts.insert(0, "import random")
    return "\n\n\n".join([*parts, f"def test_{name}():\n{seed}    {call}\n"])


def _helpers(row: dict[str, str], check: str) -> list[str]:
    """What the declaration defines before the function, where `check` calls any of it."""
    before = row["declaration"].partition(f"def {row['entry_point']}(")[0].strip()
    defined = re.findall(r"^def (\w+)\(", before, re.MULTILINE)
    return [before] if any(re.search(rf"\b{name}\(", check) for name in defined) else []
