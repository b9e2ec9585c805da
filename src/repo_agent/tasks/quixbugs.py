"""The 40 Python tasks of QuixBugs (MIT licence), read from a checkout of github.com/jkoppel/QuixBugs.

A task's workspace holds the buggy program, its test, the test's data, and the helper modules that the test imports:
no corrected program, no other task. The checkout's own conftest only serves two flags; a hidden one sets them.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from repo_agent.errors import UserError
from repo_agent.sandbox.cases import Case, Cases
from repo_agent.tasks.task import Suite, Task

PROGRAMS, FIXED, TESTS, DATA = "python_programs", "correct_python_programs", "python_testcases", "json_testcases"
TEST_HELPERS = ("load_testdata", "node")
TEST_SECONDS = 5.0
"""One corrected program (levenshtein) takes a second and more on one of its inputs; a slower machine needs room."""
CONFTEST = """import pytest


def pytest_configure(config):
    pytest.use_correct = False
    pytest.run_slow = False
"""


def quixbugs_suite(path: Path) -> Suite:
    """Every program of the checkout at `path` that has a test and a corrected version; a task's id is its name.

    Raises UserError where `path` is no checkout.
    """
    tests = sorted((path / TESTS).glob("test_*.py"))
    names = [test.stem.removeprefix("test_") for test in tests]
    tasks = tuple(_task(path, name) for name in names if _has_program(path, name))
    if not tasks:
        remedy = f"It needs the folders {PROGRAMS}, {FIXED} and {TESTS}: git clone https://github.com/jkoppel/QuixBugs"
        raise UserError("no QuixBugs checkout", str(path), remedy)
    return Suite(f"quixbugs={path}", tasks)


def _has_program(path: Path, name: str) -> bool:
    return all((path / folder / f"{name}.py").is_file() for folder in (PROGRAMS, FIXED))


def _task(path: Path, name: str) -> Task:
    program, test, data = f"{PROGRAMS}/{name}.py", f"{TESTS}/test_{name}.py", f"{DATA}/{name}.json"
    imported = re.findall(r"^(?:from|import) (\w+)", _read(path, test), re.MULTILINE)
    pristine = [test, *(f"{TESTS}/{helper}.py" for helper in TEST_HELPERS if helper in imported)]
    if (path / data).is_file():
        pristine.append(data)
    return Task(
        id=name,
        goal=f"Fix the bug in {program} so that its tests pass.",
        files={file: _read(path, file) for file in sorted([program, *pristine])},
        tests=(test,),
        pristine=tuple(pristine),
        fix={program: _read(path, f"{FIXED}/{name}.py")},
        hidden={"conftest.py": CONFTEST},
        test_seconds=TEST_SECONDS,
        cases=_cases(path, name) if data in pristine else None,
    )


def _cases(path: Path, name: str) -> Cases:
    """The lines of the program's data, `[arguments, expected]`, without the inputs that its test skips as too long."""
    test = _read(path, f"{TESTS}/test_{name}.py")
    compared = [node.comparators[0] for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Compare)]
    skipped = [ast.literal_eval(node) for node in compared if isinstance(node, ast.List)]
    lines = [json.loads(line) for line in _read(path, f"{DATA}/{name}.json").split("\n") if line.strip()]
    # The square root alone is compared up to a tolerance, which is its last argument.
    cases = [
        Case(tuple(arguments), expected, arguments[-1] if "approx" in test else 0.0)
        for arguments, expected in lines
        if arguments not in skipped
    ]
    return Cases(f"{PROGRAMS}.{name}", name, tuple(cases))


def _read(path: Path, file: str) -> str:
    """The text with its newlines as they are."""
    return (path / file).read_bytes().decode()
