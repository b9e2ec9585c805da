"""Suites: what a spec names, what a task's workspace holds, and whether fix and bug are told apart."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SHARED

from repo_agent.errors import UserError
from repo_agent.sandbox.canary import choose
from repo_agent.tasks import list_suites, load_suite, test_job
from repo_agent.tasks.bundled import bundled_suite
from repo_agent.tasks.comparing import comparing_classes
from repo_agent.tasks.quixbugs import quixbugs_suite
from repo_agent.tasks.similar import NEAR, compare_sides, verbatim
from repo_agent.tasks.task import Split, Suite, Task
from repo_agent.tasks.validate import Validation, validate

DOUBLE = "def double(n):\n    return n * {}\n\n\n'''\nTwice a number.\n'''\n"
DOUBLE_TEST = """import pytest
from load_testdata import load_json_testcases

if pytest.use_correct:
    from correct_python_programs.double import double
else:
    from python_programs.double import double


@pytest.mark.parametrize("given, expected", load_json_testcases("double"))
def test_double(given, expected):
    if not pytest.run_slow and given == [3]:
        pytest.skip("slow")
    assert double(*given) == expected
"""
LAST = "def last(node):\n    while node.successor{}:\n        node = node.successor\n    return node\n"
LAST_TEST = """import pytest
from node import Node

if pytest.use_correct:
    from correct_python_programs.last import last
else:
    from python_programs.last import last


def test_last():
    end = Node()
    assert last(Node(end)) is end
"""
NODE = "class Node:\n    def __init__(self, successor=None):\n        self.successor = successor\n"
LOADER = """import json
from pathlib import Path


def load_json_testcases(name):
    with open(Path(__file__).parent / ".." / "json_testcases" / f"{name}.json") as lines:
        return [json.loads(line) for line in lines]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two tasks of our own in QuixBugs' layout: one with data, one with nodes that never ends."""
    files = {
        "conftest.py": "raise SystemExit('the checkout has its own')\n",
        "python_programs/double.py": DOUBLE.format(3),
        "python_programs/last.py": LAST.format(" or True"),
        "python_programs/last_test.py": "",
        "python_programs/node.py": NODE,
        "correct_python_programs/double.py": DOUBLE.format(2),
        "correct_python_programs/last.py": LAST.format(""),
        "correct_python_programs/node.py": NODE,
        "python_testcases/test_double.py": DOUBLE_TEST,
        "python_testcases/test_last.py": LAST_TEST,
        "python_testcases/node.py": NODE,
        "python_testcases/load_testdata.py": LOADER,
        "json_testcases/double.json": "[[2], 4]\n[[3], 6]\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def check(suite: Suite, jobs: int = 2) -> Validation:
    return asyncio.run(validate(suite, choose(unsafe_local=True), jobs))


def test_quixbugs_holds_one_task_and_no_answer(checkout):
    suite = load_suite(f"quixbugs={checkout}")
    double, last = suite.tasks
    assert set(double.files) == {
        "python_programs/double.py",
        "python_testcases/test_double.py",
        "python_testcases/load_testdata.py",
        "json_testcases/double.json",
    }
    assert set(last.files) == {"python_programs/last.py", "python_testcases/test_last.py", "python_testcases/node.py"}
    assert double.files["python_programs/double.py"].endswith("Twice a number.\n'''\n")
    assert double.goal == "Fix the bug in python_programs/double.py so that its tests pass."
    assert set(double.files) - set(double.pristine) == {"python_programs/double.py"}
    assert (double.id, double.split_group, double.fix) == (
        "double",
        "double",
        {"python_programs/double.py": DOUBLE.format(2)},
    )


def test_quixbugs_validates(checkout):
    assert check(quixbugs_suite(checkout)) == Validation(2, 2, 2, [])


def test_quixbugs_refuses_another_folder(tmp_path):
    with pytest.raises(UserError, match=r"no QuixBugs checkout.*git clone"):
        load_suite(f"quixbugs={tmp_path}")


@pytest.mark.slow
def test_real_quixbugs():
    path = os.environ.get("REPO_AGENT_QUIXBUGS")
    if not path:
        pytest.skip("REPO_AGENT_QUIXBUGS names no checkout")
    assert check(load_suite(f"quixbugs={path}")) == Validation(40, 40, 40, [])


def test_validate_names_what_is_odd():
    test = "from m import f\n\n\ndef test_f():\n    assert f() == 1\n"
    good, bad = "def f():\n    return 1\n", "def f():\n    return 2\n"

    def task(name: str, program: str, fix: str | None, tests: str = test) -> Task:
        files = {"m.py": program, "test_m.py": tests}
        return Task(name, "", files, ("test_m.py",), fix=None if fix is None else {"m.py": fix})

    seen: list[tuple[int, int]] = []
    tasks = (task("a", good, bad), task("b", bad, None, "x = 1\n"), task("c", bad, good))
    suite = Suite("odd", tasks)
    found = asyncio.run(validate(suite, choose(unsafe_local=True), 2, lambda done, of: seen.append((done, of))))
    assert seen == [(number, 5) for number in range(1, 6)]
    assert found.odd == [
        {"task": "a", "what": "untouched: 1 passed\n(no test notices the bug, or the bug is not there)"},
        {"task": "a", "what": "with its fix: 1 failed\ntest_m.py::test_f: AssertionError: assert 2 == 1"},
        {"task": "b", "what": "untouched: no tests"},
    ]
    assert (found.tasks, found.fix_passes, found.untouched_fails, found.no_fix) == (3, 1, 1, 1)


@pytest.mark.parametrize(("size", "warned"), [(16_000, False), (16_001, True)])
def test_validate_warns_of_files_that_no_read_shows_whole(tmp_path: Path, size: int, warned: bool) -> None:
    """The default of --read-chars; the task itself is sound."""
    program = "def f():\n    return {}\n"
    pad = "#" * (size - len(program.format(1)) - 1) + "\n"
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/m.py").write_text(program.format(1) + pad)
    (tmp_path / "repo/test_m.py").write_text("from m import f\n\n\ndef test_f():\n    assert f() == 1\n")
    bug = json.dumps({"m.py": program.format(2)})
    task = {"id": "long", "goal": "Fix f.", "repo": "repo", "bug": json.loads(bug)}
    (tmp_path / "suite.json").write_text(json.dumps({"tasks": [task]}))
    command = [sys.executable, "-m", "repo_agent.cli", "suite", "validate", str(tmp_path / "suite.json")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert (result["fix_passes"], result["odd"]) == (1, [])
    assert [one["task"] for one in result["warnings"]] == ["long"] * warned
    if warned:
        shown = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        assert "warnings;" in shown and "16,001 characters" in shown and "--read-chars" in shown


@pytest.fixture
def humanevalfix() -> Suite:
    path = SHARED / "humanevalfix"
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    return load_suite(f"humanevalfix={path}")


def test_humanevalfix(humanevalfix):
    """All 164 load; validated is one plain task, and those whose check needs helpers or draws random inputs."""
    assert len(humanevalfix.tasks) == len(humanevalfix.by_id) == 164
    assert all(len(task.files) == 2 and task.fix and set(task.fix) < set(task.files) for task in humanevalfix.tasks)
    chosen = tuple(humanevalfix.by_id[f"Python-{number}"] for number in (0, 32, 38, 50))
    assert check(Suite("some", chosen)) == Validation(4, 4, 4, [])
    task = chosen[1]
    spoilt = task.files["find_zero.py"].replace("return sum(", "return 0 * sum(")
    cheat = Task("cheat", "", task.files, task.tests, task.pristine, fix={"find_zero.py": spoilt})
    assert check(Suite("cheat", (cheat,))).fix_passes == 0


@pytest.mark.slow
def test_the_whole_of_humanevalfix(humanevalfix):
    assert check(humanevalfix) == Validation(164, 164, 164, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no task"), ("{}", "p.jsonl:1: no task of HumanEvalPack"), ("\n[", "p.jsonl:2: no task")],
)
def test_humanevalfix_refuses_another_file(tmp_path, text, said):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        load_suite(f"humanevalfix={tmp_path / 'p.jsonl'}")
    with pytest.raises(UserError, match=r"humanevalpack_python\.jsonl: cannot be read"):
        load_suite(f"humanevalfix={tmp_path}")


def test_rare_fields_change_the_hash_and_their_absence_does_not():
    """The hash of a task that uses none of them is the one that runs on disk have."""
    plain = Task("a", "g", {"a.py": "x"}, ("t.py",))
    assert plain.hash == "ad7edfc285a11573"
    rare = [{"command": ("make",)}, {"python": "/p"}, {"pythonpath": ("src",)}, {"writable": ("*",)}]
    rare += [{"wall_seconds": 9.0}, {"files": {"a.py": b"x"}}, {"files": {"a.py": b"y"}}]
    assert len({plain.hash, *(replace(plain, **change).hash for change in rare)}) == len(rare) + 1


def test_comparing_classes_are_those_that_decide_their_own_equality():
    texts = [
        "class A:\n    def __eq__(self, other): return True\nclass Plain:\n    pass\n",
        "@dataclasses.dataclass(order=True)\nclass B:\n    n: int\ndef f():\n    class C:\n        __lt__ = None\n",
        "class Broken:\n    def __eq__(",
        b"class D:\n    def __eq__(self, o): ...",
        "class F:\n    def __rsub__(self, o): ...\nclass G:\n    def __len__(self): ...\n",
    ]
    found = {"0.py::A", "1.py::B", "1.py::C", "4.py::F"}
    assert comparing_classes((f"{number}.py", text) for number, text in enumerate(texts)) == found
    task = Task("a", "", {"a.py": texts[0]}, ("t.py",), fix={"a.py": "class E:\n    __contains__ = 1\n"})
    assert test_job(task).comparing == {"a.py::A", "a.py::E"}


LOOP = "def {}(values):\n    total = 0\n    for value in values:\n        total += value * {}\n    return total\n"


def test_near_duplicates_across_the_split_are_found():
    def task(name, program, group=""):
        return Task(name, "", {"m.py": "", "test_m.py": "t"}, ("test_m.py",), fix={"m.py": program}, group=group)

    near, far = LOOP.format("add", 2), "import os\n\nHERE = os.path.dirname(__file__)\n"
    suite = Suite("s", (task("a", near), task("b", "# changed\n" + near.replace("2", "3")), task("c", far)))
    found = compare_sides(suite, Split(("a", "c"), ("b",)))
    assert [(pair.train, pair.held_out) for pair in found] == [("a", "b")] and NEAR <= found[0].similarity < 1
    assert compare_sides(suite, Split(("a", "b"), ("c",))) == []


def test_verbatim_forgives_white_space_at_line_ends_alone(tmp_path):
    task = Task("a", "", {"m.py": ""}, ("t.py",), fix={"m.py": "x = 1\ny = 2\n"})
    for text, same in (("x = 1  \r\ny = 2\n\n", True), ("x = 1\ny  = 2\n", False), ("x = 1\n", False)):
        (tmp_path / "m.py").write_text(text, newline="")
        assert verbatim(task, tmp_path) is same
    (tmp_path / "m.py").unlink()
    assert verbatim(task, tmp_path) is False and verbatim(replace(task, fix=None), tmp_path) is None


def test_job_puts_back_tests_data_and_configuration():
    files = {"a.py": "", "conftest.py": "c", "tests/test_a.py": "t", "tests/data.json": "d", "pyproject.toml": "p"}
    task = Task("a", "", files, ("tests/test_a.py",), pristine=("tests/data.json",), hidden={"h.py": "h"})
    job = test_job(task)
    assert dict(job.pristine) == {name: text for name, text in files.items() if name != "a.py"}
    assert (job.tests, dict(job.hidden), job.test_seconds) == (("tests/test_a.py",), {"h.py": "h"}, 3.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nope", r"unknown suite 'nope'.*micro\[=SEED\], bundled, quixbugs=PATH.*ends in \.toml"),
        ("humanevalfix", "no path"),
        ("file", "no path"),
        ("micro=x", "'x' is no seed"),
        ("bundled=x", "takes no value"),
        ("quixbugs", "no path.*checkout"),
    ],
)
def test_a_wrong_spec_teaches(spec, message):
    with pytest.raises(UserError, match=message):
        load_suite(spec)


def test_every_suite_is_listed():
    assert [name for name, _ in list_suites()] == [
        "micro[=SEED]", "bundled", "quixbugs=PATH", "humanevalfix=PATH", "file=PATH", "outside=PATH",
    ]  # fmt: skip
    assert load_suite("micro=1").hash != load_suite("micro").hash == load_suite("micro=0").hash


def bundle(folder: Path, toml: str, **texts: str) -> Path:
    """A task folder named `one`; `repo__a` in a name is `repo/a.py`."""
    (folder / "one").mkdir()
    (folder / "one" / "task.toml").write_text(toml)
    for name, text in texts.items():
        path = folder / "one" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_bundled_reads_a_folder(tmp_path):
    toml = 'goal = "G"\ntests = ["t/test_a.py"]\npristine = ["t/*"]\ngroup = "g"\ntest_seconds = 1\n'
    texts = {"repo__a": "bug", "repo__t__test_a": "test", "repo__t__data": "data", "fix__a": "fixed"}
    bundle(tmp_path, toml, **texts)
    cache = tmp_path / "one" / "repo" / "__pycache__"
    cache.mkdir()
    (cache / "a.cpython-311.pyc").write_bytes(b"\xff")
    (task,) = bundled_suite(tmp_path).tasks
    assert task == Task(
        id="one",
        goal="G",
        files={"a.py": "bug", "t/data.py": "data", "t/test_a.py": "test"},
        tests=("t/test_a.py",),
        pristine=("t/data.py", "t/test_a.py"),
        fix={"a.py": "fixed"},
        group="g",
        test_seconds=1.0,
    )


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('goal = "G"\n', "keys missing: tests"),
        ('goal = "G"\ntests = ["test_a.py"]\nseconds = 1\n', "unknown keys: seconds"),
        ('goal = "G"\ntests = ["test_b.py"]\n', "not in repo/: test_b.py"),
        ('goal = "G"\ntests = ["test_a.py"]\n', "fix/ changes files that are restored.*test_a.py"),
        ("goal", "not TOML"),
    ],
)
def test_bundled_refuses_a_task_that_does_not_hold_together(tmp_path, toml, message):
    with pytest.raises(UserError, match=message):
        bundled_suite(bundle(tmp_path, toml, repo__test_a="", fix__test_a=""))


def test_bundled_suite_is_sound():
    """What `suite validate bundled` checks in full, on two tasks."""
    suite = load_suite("bundled")
    assert len(suite.tasks) >= 20
    assert check(Suite("sample", suite.tasks[::12])) == Validation(2, 2, 2, [])


@pytest.mark.slow
def test_the_whole_bundled_suite_is_sound():
    suite = load_suite("bundled")
    assert check(suite) == Validation(len(suite.tasks), len(suite.tasks), len(suite.tasks), [])
