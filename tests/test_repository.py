"""Suites over a user's own repositories: what of a repository a workspace gets, how a test command is read, what a
task may write, and that a wrong suite file is answered in one clear line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import UserError
from repo_agent.evaluate.arms import load_arm
from repo_agent.messages import ToolCall
from repo_agent.models import Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.episode import Setting, play
from repo_agent.sandbox.canary import choose
from repo_agent.sandbox.workspace import Workspace
from repo_agent.tasks import load_suite, test_job, workspace_of
from repo_agent.tasks import source as source_module
from repo_agent.tasks.command import UNITTEST_ONLY, parse_command
from repo_agent.tasks.source import Answers, Source
from repo_agent.tasks.task import Suite, Task
from repo_agent.tasks.validate import Validation, validate
from repo_agent.tools.files import default_registry
from repo_agent.traces import events
from repo_agent.traces.read import read_events
from repo_agent.traces.store import RunDir

GOOD, BAD = "def half(n):\n    return n / 2\n", "def half(n):\n    return n * 2\n"
TEST = "from shop.maths import half\n\n\ndef test_half():\n    assert half(4) == 2\n"
UNIT = (
    "import unittest\n\nfrom shop.maths import half\n\n\nclass HalfTest(unittest.TestCase):\n"
    "    def test_half(self):\n        self.assertEqual(half(4), 2)\n\n\ndef test_bare():\n    assert False\n"
)
PATCH = """--- a/shop/maths.py
+++ b/shop/maths.py
@@ -1,2 +1,2 @@
 def half(n):
-    return n {} 2
+    return n {} 2
"""
JSON = PROTOCOLS["json"]


def lay(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A flat package in its good state."""
    return lay(tmp_path / "repo", {"shop/__init__.py": "", "shop/maths.py": GOOD, "tests/test_maths.py": TEST})


def toml(folder: Path, text: str, kind: str = "file") -> Suite:
    (folder / "suite.toml").write_text(text)
    return load_suite(f"{kind}={folder / 'suite.toml'}")


def one(folder: Path, text: str) -> Task:
    """The only task of a suite file whose task is `half` over `repo`."""
    (task,) = toml(folder, f'[[tasks]]\nid = "half"\nrepo = "repo"\ngoal = "Fix half."\n{text}').tasks
    return task


def check(*tasks: Task) -> Validation:
    return asyncio.run(validate(Suite("own", tasks), choose(unsafe_local=True), 2))


SOUND = Validation(1, 1, 1, [])


def test_a_bug_as_a_patch_has_the_good_state_as_its_fix(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "half.patch").write_text(PATCH.format("/", "*"))
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()}
    task = one(tmp_path, 'bug_patch = "half.patch"\n')
    assert (task.files["shop/maths.py"], task.fix, task.tests) == (BAD, {"shop/maths.py": GOOD}, (".",))
    assert task.pristine == ("tests/test_maths.py",)
    assert check(task) == SOUND
    assert {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()} == before


def test_a_fix_as_a_patch_a_folder_or_texts(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    (tmp_path / "half.patch").write_text(PATCH.format("*", "/"))
    lay(tmp_path / "fixed", {"shop/maths.py": GOOD})
    forms = ('fix_patch = "half.patch"', 'fix_dir = "fixed"', f'fix = {{"shop/maths.py" = {json.dumps(GOOD)}}}')
    tasks = [one(tmp_path, form) for form in forms]
    assert [task.fix for task in tasks] == [{"shop/maths.py": GOOD}] * 3
    assert len({task.hash for task in tasks}) == 1
    assert check(tasks[0]) == SOUND


def test_a_bug_as_a_folder_under_a_fix_that_differs_from_the_good_state(repo: Path, tmp_path: Path) -> None:
    lay(tmp_path / "bug", {"shop/maths.py": BAD})
    other = GOOD.replace("n / 2", "n * 0.5")
    task = one(tmp_path, f'bug_dir = "bug"\nfix = {{"shop/maths.py" = {json.dumps(other)}}}')
    assert (task.files["shop/maths.py"], task.fix) == (BAD, {"shop/maths.py": other})


def test_a_task_without_a_fix_is_noted_and_not_odd(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    task = one(tmp_path, "")
    assert task.fix is None and check(task) == Validation(
        1,
        0,
        1,
        [],
        1,
        [{"task": "half", "what": "1 failed\ntests/test_maths.py::test_half: AssertionError: assert 8 == 2"}],
    )
    command = [sys.executable, "-m", "repo_agent.cli", "suite", "validate", str(tmp_path / "suite.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "note: without a fix: 1" in done.stdout and "0 odd" in done.stdout
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    ("files", "command", "said"),
    [
        ({"conftest.py": "import numpi\n"}, "pytest", "conftest.py: ModuleNotFoundError: No module named 'numpi'"),
        ({"pytest.ini": "[pytest]\naddopts = --nope\n"}, "pytest", "unrecognized arguments: --nope"),
        ({}, "pytest tests/test_maths.py::nope", "not found: "),
    ],
)
def test_why_there_are_no_tests(
    repo: Path, tmp_path: Path, files: dict[str, str | bytes], command: str, said: str
) -> None:
    lay(repo, files | {"shop/maths.py": BAD})
    (finding,) = check(one(tmp_path, f"test_cmd = '{command}'")).odd
    assert finding["what"].startswith("untouched: no tests\n") and said in finding["what"]


def test_what_a_model_gets_of_a_task_can_be_looked_at(repo: Path, tmp_path: Path) -> None:
    suite = one(tmp_path, "") and load_suite(str(tmp_path / "suite.toml"))
    shown = workspace_of(suite, "half")
    assert shown["files"] == ["shop/__init__.py", "shop/maths.py"] and shown["put_back"] == ["tests/test_maths.py"]
    with pytest.raises(UserError, match=r"no such task 'x'.*Known: half"):
        workspace_of(suite, "x")
    command = [sys.executable, "-m", "repo_agent.cli", "suite", "show", suite.spec.partition("=")[2], "--task", "half"]
    assert "shop/maths.py" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_program_that_is_not_there_is_odd(repo: Path, tmp_path: Path) -> None:
    (finding,) = check(one(tmp_path, "test_cmd = 'pytets tests'")).odd
    assert "exit code 127\npytets: No such file or directory" in finding["what"]


def test_a_command_has_the_folders_of_pythonpath_and_its_own_makefile(repo: Path, tmp_path: Path) -> None:
    (repo / "shop").rename(repo / "lib")
    (repo / "src").mkdir()
    (repo / "lib").rename(repo / "src/shop")
    script = "python -c 'from shop.maths import half; assert half(4) == 2'\n"
    lay(repo, {"Makefile": "test:\n\tsh run.sh\n", "run.sh": script, "src/shop/maths.py": BAD})
    text = "pythonpath = ['src']\ntest_cmd = \"sh -c 'sh run.sh'\"\n"
    task = one(tmp_path, text + f"fix = {{'src/shop/maths.py' = {json.dumps(GOOD)}}}")
    assert check(task) == SOUND
    assert task.put_back >= {"Makefile", "run.sh", "tests/test_maths.py"}
    assert "Makefile" not in one(tmp_path, text + "fix = {Makefile = 'test:'}").put_back
    doctest = one(tmp_path, "test_cmd = 'python -m doctest src/shop/maths.py'")
    assert "src/shop/maths.py" not in doctest.put_back


def test_one_task_is_no_split(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    suite = one(tmp_path, "") and load_suite(str(tmp_path / "suite.toml"))
    assert suite.split() == suite.split(0) and suite.split().train == ("half",) and not suite.split().held_out

    def answered(*words: str) -> str:
        command = [sys.executable, "-m", "repo_agent.cli", "eval", "--suite", str(tmp_path / "suite.toml")]
        out = tmp_path / "run"
        done = subprocess.run([*command, *words, "--out", str(out)], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and not out.exists() and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "a split needs two groups" in answered("--split", "held-out", "--model", "oracle")
    assert "there is none for half" in answered("--split", "all", "--model", "oracle")


def test_pytest_with_the_repository_s_own_configuration(repo: Path, tmp_path: Path) -> None:
    """src layout, found by pytest's own `pythonpath`; the configuration is restored, so a model cannot turn it off."""
    (repo / "shop").rename(tmp_path / "shop")
    (repo / "src").mkdir()
    (tmp_path / "shop").rename(repo / "src/shop")
    config = '[tool.pytest.ini_options]\npythonpath = ["src"]\npython_functions = ["check_*"]\n'
    lay(repo, {"pyproject.toml": config, "tests/test_maths.py": TEST.replace("test_half", "check_half")})
    lay(tmp_path / "bug", {"src/shop/maths.py": BAD})
    task = one(tmp_path, 'bug_dir = "bug"\ntest_cmd = "python -m pytest -q tests"\n')
    assert "pyproject.toml" in task.pristine and (task.tests, task.test_args) == (("tests",), ("-q",))
    assert check(task) == SOUND


def test_src_layout_by_pythonpath(repo: Path, tmp_path: Path) -> None:
    """Loading alone: the sandbox puts the folders on sys.path."""
    (repo / "shop").rename(tmp_path / "shop")
    (repo / "src").mkdir()
    (tmp_path / "shop").rename(repo / "src/shop")
    task = one(tmp_path, 'pythonpath = ["./src/"]\ntest_seconds = 5\nwall_seconds = 50\n')
    job = test_job(task)
    assert (job.pythonpath, job.test_seconds, job.bounds.wall_seconds) == (("src",), 5.0, 50.0)


def test_unittest_discovery_runs_as_unittest_would(repo: Path, tmp_path: Path) -> None:
    """The bare function `test_bare`, which pytest would run and which fails, is not among the tests."""
    lay(repo, {"tests/test_maths.py": "raise SystemExit\n", "tests/__init__.py": "", "tests/half_check.py": UNIT})
    lay(tmp_path / "bug", {"shop/maths.py": BAD})
    task = one(tmp_path, 'bug_dir = "bug"\ntest_cmd = "python -m unittest discover -s tests -p *_check.py -t ."\n')
    assert check(task) == SOUND


def test_the_shape_of_other_harnesses_is_taken_as_it_is(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    tasks = [
        {"task_id": "a", "repo": "repo", "goal": "Fix half.", "metadata": {"answer": "n / 2"}},
        {"task_id": "b", "repo": "repo", "goal": "Fix half too.", "test_cmd": "python3 -m pytest -k half"},
    ]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"name": "own", "defaults": {"test_cmd": "pytest tests"}, "tasks": tasks}))
    suite = load_suite(str(path))
    assert (suite.spec, [task.id for task in suite.tasks]) == (f"file={path}", ["a", "b"])
    assert [(task.tests, task.test_args) for task in suite.tasks] == [(("tests",), ()), ((".",), ("-k", "half"))]
    assert not any("n / 2" in task.goal or "n / 2" in str(task.files.values()) for task in suite.tasks)
    assert load_suite(f"file={path}").hash == suite.hash


def test_defaults_hold_where_a_task_is_silent(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    text = '[defaults]\nrepo = "repo"\nwritable = ["shop/*"]\ntest_seconds = 4\n'
    text += '[[tasks]]\nid = "a"\ngoal = "A"\n[[tasks]]\nid = "b"\ngoal = "B"\ngroup = "g"\nwritable = []\n'
    a, b = toml(tmp_path, text).tasks
    assert (a.writable, b.writable, a.test_seconds, b.split_group) == (("shop/*",), (), 4.0, "g")


def test_what_a_workspace_does_not_get(repo: Path, tmp_path: Path) -> None:
    """Version control, caches, environments, keys, runs of ours, answers, links outside, and what is excluded."""
    out = (
        ".git/config",
        "shop/__pycache__/maths.cpython-311.pyc",
        ".mypy_cache/x.json",
        ".tox/py/y",
        "old.pyc",
        ".env",
    )
    out += ("node_modules/m/index.js", "venv/pyvenv.cfg", "venv/lib/z.py", "runs/a/run.json", "runs/a/traces/t/0.jsonl")
    out += ("big/data.csv", "big/deep/data.csv", "a.log", "agent/suite.toml", "agent/one.patch", "agent/fixed/f.py")
    lay(repo, dict.fromkeys(out, "x"))
    lay(tmp_path, {"secret.txt": "s"})
    (repo / "outside").symlink_to(tmp_path / "secret.txt")
    (repo / "up").symlink_to(tmp_path)
    (repo / "loop").symlink_to(repo)
    (repo / "to_git").symlink_to(repo / ".git/config")
    (repo / "same.py").symlink_to("shop/maths.py")
    (repo / "again").symlink_to("shop")
    (repo / "broken").symlink_to("nowhere")
    os.mkfifo(repo / "pipe")
    answers = {repo / "agent/suite.toml", repo / "agent/one.patch", repo / "agent/fixed"}
    files = Source(repo, ("big/*", "*.log"), Answers(frozenset(answers))).files()
    assert sorted(files) == [
        "again/__init__.py", "again/maths.py", "same.py", "shop/__init__.py", "shop/maths.py", "tests/test_maths.py",
    ]  # fmt: skip
    assert files["same.py"] == GOOD


def test_answers_that_lie_in_the_repository_stay_out(repo: Path) -> None:
    (repo / "agent").mkdir()
    (repo / "agent/half.patch").write_text(PATCH.format("/", "*"))
    text = '[[tasks]]\nid = "half"\nrepo = ".."\ngoal = "Fix half."\nbug_patch = "half.patch"\n'
    (task,) = toml(repo / "agent", text, "outside").tasks
    assert sorted(task.files) == ["shop/__init__.py", "shop/maths.py", "tests/test_maths.py"]


@pytest.mark.parametrize("key", ["repo", "bug_dir", "bug_patch", "fix_dir", "fix_patch"])
@pytest.mark.parametrize("place", ["../private", "{tmp}/private", "~/private", "link", "repo/../../private"])
def test_what_lies_outside_the_folder_of_a_suite_file_is_read_if_the_user_says_so(
    key: str, place: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    inner = tmp_path / "suite"
    lay(inner / "repo", {"shop/maths.py": GOOD, "tests/test_maths.py": TEST})
    private = tmp_path / "private"
    if key.endswith("patch"):
        private.write_text(PATCH.format("/", "*") if key == "bug_patch" else PATCH.format("*", "/"))
    else:
        lay(private, {"shop/maths.py": GOOD + "# mine\n", "tests/test_maths.py": TEST})
    (inner / "link").symlink_to("../private")
    keys = {"repo": "repo", key: place.format(tmp=tmp_path)}
    text = '[[tasks]]\nid = "half"\ngoal = "Fix half."\n' + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
    with pytest.raises(UserError, match=f"{key} = .* lies outside of the file's folder.*--suite outside="):
        toml(inner, text)
    if key != "fix_patch":  # which has no bug to mend here
        assert toml(inner, text, "outside").tasks


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_what_git_ignores_stays_out_unless_asked_for(repo: Path) -> None:
    git(repo, "init")
    lay(repo, {".gitignore": "build/\n*.local\n", "build/lib/maths.py": GOOD, "keys.local": "k", "new.py": ""})
    lay(repo, {"shop/deep/data.txt": "x", ".env.prod": "KEY=1", ".env.example": "KEY=", "shop/k.local": "k"})
    lay(repo, {"inner/a.py": ""})
    git(repo / "inner", "init")
    for link, target in (("again", "shop"), ("link.py", "keys.local"), ("out", "build")):
        (repo / link).symlink_to(target)
    git(repo, "add", "shop", "again", "link.py", "out")
    names = {".gitignore", ".env.example", "new.py", "tests/test_maths.py"}
    names |= {f"{top}/{name}" for top in ("again", "shop") for name in ("__init__.py", "maths.py", "deep/data.txt")}
    assert set(Source(repo).files()) == names
    assert set(Source(repo / "shop").files()) == {"__init__.py", "maths.py", "deep/data.txt"}
    assert set(Source(repo, ignored=True).files()) == names | {
        "build/lib/maths.py", "keys.local", "link.py", "out/lib/maths.py", "shop/k.local", "again/k.local",
        "inner/a.py",
    }  # fmt: skip
    assert set(Source(repo / "build").files()) == {"lib/maths.py"}


def test_answers_stay_out_of_another_checkout_too(repo: Path, tmp_path: Path) -> None:
    """Committed with the repository they are in every worktree, also such as are no longer used, and copied ones."""
    text = '[[tasks]]\nid = "half"\nrepo = "{}"\ngoal = "Fix half."\nbug_patch = "half.patch"\n'
    lay(repo, {"agent/suite.toml": "old", "agent/half.patch": "old", "agent/stale.patch": PATCH, "agent/b.json": "{}"})
    git(repo, "init")
    git(repo, "add", ".")
    git(repo, "commit", "-m", "all")
    git(repo, "worktree", "add", str(tmp_path / "tree"))
    lay(repo, {"agent/half.patch": PATCH.format("/", "*")})
    lay(tmp_path / "tree", {"notes/copy.txt": PATCH.format("/", "*"), "notes/other.txt": "x" * 200})
    plain = {"shop/__init__.py", "shop/maths.py", "tests/test_maths.py"}
    (task,) = toml(repo / "agent", text.format("../../tree"), "outside").tasks
    assert set(task.files) == plain | {"notes/other.txt"}
    (task,) = toml(repo / "agent", text.format(".."), "outside").tasks
    assert set(task.files) == plain


def test_a_fix_that_can_be_read_in_the_workspace_is_odd(repo: Path, tmp_path: Path) -> None:
    back = PATCH.format("/", "*").replace("--- a", "--- b")
    lay(repo, {"dist/maths.py": "# copy\n" + GOOD, "notes/bug": back, "notes/fix": PATCH.format("*", "/")})
    lay(repo, {"notes/plain": "half is n / 2"})
    found = check(one(tmp_path, f'bug = {{"shop/maths.py" = {json.dumps(BAD)}}}'))
    assert [entry["what"].split("\n")[0] for entry in found.odd] == [
        f"the fix of shop/maths.py can be read in {name}" for name in ("dist/maths.py", "notes/bug", "notes/fix")
    ]


def test_bytes_stay_bytes(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"tests/logo.bin": b"\xff\x00", "shop/maths.py": BAD})
    task = one(tmp_path, "")
    assert task.files["tests/logo.bin"] == b"\xff\x00" == test_job(task).pristine["tests/logo.bin"]
    with Workspace(task.files) as workspace:
        assert (workspace.root / "tests/logo.bin").read_bytes() == b"\xff\x00"
    other = lay(repo, {"tests/logo.bin": b"\xfe\x00"}) and one(tmp_path, "")
    assert task.hash != other.hash
    (tmp_path / "half.patch").write_text(PATCH.format("*", "/"))
    assert one(tmp_path, 'fix_patch = "half.patch"').files == other.files


def test_a_repository_over_the_limits(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(repo, {"data/a.csv": "x" * 5000, "data/b.csv": "x" * 5000})
    monkeypatch.setattr(source_module, "MAX_BYTES", 4000)
    with pytest.raises(UserError, match=r"more than 0 MB.*data holds.*exclude = \[\"data\"\]"):
        Source(repo).files()
    assert len(Source(repo, ("data/",)).files()) == 3
    monkeypatch.setattr(source_module, "MAX_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        Source(repo, ("data",)).files()


FILES = ["tests/__init__.py", "tests/test_a.py", "src/m.py", "checks/run.py"]


@pytest.mark.parametrize(
    ("text", "tests", "args"),
    [
        ("pytest", (".",), ()),
        ("pytest -q ./tests/ -k 'a or b'", ("tests",), ("-q", "-k", "a or b")),
        ("python3 -m pytest -x tests/test_a.py::test_z", ("tests/test_a.py::test_z",), ("-x",)),
        ("python -m unittest", (".",), (*UNITTEST_ONLY, "-o", "python_files=test*.py")),
        ("python3.12 -m unittest -v -f tests.test_a.T.test_x", ("tests/test_a.py::T::test_x",), (*UNITTEST_ONLY, "-x")),
        ("python -m unittest tests checks/run.py", ("tests", "checks/run.py"), UNITTEST_ONLY),
    ],
)  # fmt: skip
def test_pytest_and_unittest_commands(text: str, tests: tuple[str, ...], args: tuple[str, ...]) -> None:
    found = parse_command(text, FILES, "here")
    assert (found.tests, found.args, found.command) == (tests, args, ())


def test_discovery_puts_its_top_folder_on_the_path() -> None:
    found = parse_command("python -m unittest discover tests '*_check.py'", FILES, "here")
    assert (found.tests, found.pythonpath, found.args[-1]) == (("tests",), ("tests",), "python_files=*_check.py")
    assert parse_command("python -m unittest discover -stests -t .".replace("-s", "-s "), FILES, "").pythonpath == ()


@pytest.mark.parametrize("text", ["make test", "sh -c 'a && b > c'", "python checks/run.py", "find . -name ';'"])
def test_any_other_command_is_kept(text: str, repo: Path, tmp_path: Path) -> None:
    """Parsing and the job alone: the sandbox runs it."""
    words = parse_command(text, FILES, "here").command
    lay(repo, {"shop/maths.py": BAD})
    assert words and test_job(one(tmp_path, f"test_cmd = {json.dumps(text)}")).command == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cd src && pytest", r"shell syntax.*write sh -c 'cd src && pytest'"),
        ("pytest > out", "shell syntax"),
        ("KEY=1 pytest", "shell syntax"),
        ("pytest tests/test_b.py", r"tests/test_b.py, which is not in the repository"),
        ("python -m unittest tests.test_b", r"tests.test_b, which is not in the repository"),
        ("python -m unittest -k half", "-k of unittest"),
        (".venv/bin/python -m pytest", r'Write python = "\.venv/bin/python"'),
        ("pytest '", "Close the quotes"),
        (" ", "is empty"),
    ],
)
def test_a_command_that_cannot_be_carried_over(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_command(text, FILES, "here")


TASK = '[[tasks]]\nid = "half"\nrepo = "repo"\ngoal = "Fix half."\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks = 3", r"suite\.toml: tasks is no list\. Write it as"),
        ("[[tasks", "not TOML"),
        ("[[tasks]]\nid = 'a'\nrepo = 'repo'\n", r"suite\.toml: task a: goal is missing"),
        ("[[tasks]]\nid = 'a'\ngoal = 'G'\n", r"task a: repo is missing.*\[defaults\]"),
        ("[[tasks]]\ngoal = 'G'\n", "task number 1: id is missing"),
        (TASK + "test_command = 'x'\n", r"task half: unknown key test_command.*Known: .*test_cmd"),
        ("[defaults]\ngoal = 'G'\n" + TASK, "defaults: unknown key goal"),
        (TASK + "test_seconds = 0\n", "task half: test_seconds: .*greater than 0"),
        (TASK + TASK, "more than one task has the id half"),
        (TASK.replace('"repo"', '"nowhere"'), "nowhere: no such folder.*relative to the suite file"),
        (TASK + "tests = ['spec/*']\n", "fits no file"),
        (TASK + "bug_patch = 'no.patch'\n", r"task half: .*no\.patch: no such patch"),
        (TASK + "bug_patch = 'bad.patch'\n", r"bad\.patch: does not apply \(error: .*git diff --relative"),
        (TASK + "bug_patch = 'back.patch'\n", r"back\.patch: applies only in reverse"),
        (TASK + "bug_pach = 'a'\n", r"task half: unknown key bug_pach\. Did you mean bug_patch\?"),
        (TASK + "fix = 'a.patch'\n", r"task half: fix is no table.*use fix_patch or fix_dir"),
        (TASK + "test_cmd = 'pytest -n 4 tests'\n", r"-n in test_cmd is a plug-in's"),
        ("[[task]]\nid = 'half'\n", r"tasks is missing\. Is task meant\?"),
        (TASK + "bug_dir = 'no'\n", "no such folder"),
        (TASK + "bug_dir = 'repo'\n", "the bug changes nothing"),
        (TASK + "fix_dir = 'repo'\n", "the fix changes nothing"),
        (TASK + "fix_dir = 'repo'\nfix_patch = 'bad.patch'\n", "more than one of fix, fix_dir, fix_patch"),
        (TASK + "fix = {'../x' = 'y'}\n", "fix names '../x'"),
        (TASK + "fix = {'tests/test_maths.py' = 'y'}\n", "tests/test_maths.py, which is restored"),
        (
            TASK + "fix = {'shop/maths.py' = 'y'}\nwritable = ['lib/*']\n",
            "shop/maths.py, which writable does not allow",
        ),
        (TASK + "pythonpath = ['src']\n", "pythonpath names src"),
        (TASK + "python = './nopython'\n", "is no program"),
    ],
)
def test_a_wrong_suite_file_is_answered_in_one_line(repo: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.patch").write_text(PATCH.format("%", "**"))
    (tmp_path / "back.patch").write_text(PATCH.format("%", "/"))
    with pytest.raises(UserError, match=said) as caught:
        toml(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_the_command_line_answers_with_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repo_agent.cli", "suite", "validate", str(tmp_path / "no.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot be read" in done.stderr and done.stderr.count("\n") == 1


def test_an_interpreter_is_kept_by_its_links(repo: Path, tmp_path: Path) -> None:
    """A virtual environment's python is a link; following it would lose the environment."""
    (tmp_path / "env").symlink_to(sys.executable)
    assert one(tmp_path, 'python = "./env"').python == str(tmp_path / "env")


def rollout(task: Task, tmp_path: Path, *replies: str) -> tuple[events.RunEnd, list[Any], list[str]]:
    """Play replies through the real loop; the end, the trace's events, and the observations."""
    registry = default_registry()
    setting = Setting("own", "base", "scripted", AgentSpec(registry, JSON, Limits(tests="never")), Sampling(), 0, False,
                      choose(unsafe_local=True))  # fmt: skip
    run = RunDir.open(tmp_path / "run", {})
    writer = run.claim(task.id, 0)
    assert writer is not None
    end = asyncio.run(play(task, 0, Scripted([*replies, JSON.render_final("done")]), setting, writer))
    log = read_events(run.traces()[0])[0]
    said = [event.output for event in log if isinstance(event, events.ToolResultEvent)]
    return end, log, said


def write(path: str, content: str) -> str:
    return JSON.render_call(ToolCall("write_file", {"rel_path": path, "content": content}))


def test_only_what_is_writable_is_written(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    task = one(tmp_path, f'writable = ["shop/ma*.py"]\nfix = {{"shop/maths.py" = {json.dumps(GOOD)}}}')
    assert set(test_job(task).pristine) == {"shop/__init__.py", "tests/test_maths.py"}
    tried = (write("shop/__init__.py", "x"), write("new.py", "x"), write("./shop//maths.py", GOOD + "\n"))
    end, log, said = rollout(task, tmp_path, *tried)
    codes = [event.code for event in log if isinstance(event, events.ToolResultEvent)]
    assert codes == ["read_only", "read_only", None] and end.passed and end.verbatim is True
    assert any("shop/__init__.py may not be written; writable: shop/ma*.py" in text for text in said)
    start = log[0]
    assert isinstance(start, events.RunStart) and start.tools == default_registry().schemas()


def test_another_fix_is_not_verbatim(repo: Path, tmp_path: Path) -> None:
    lay(repo, {"shop/maths.py": BAD})
    task = one(tmp_path, f'fix = {{"shop/maths.py" = {json.dumps(GOOD)}}}')
    end, _, _ = rollout(task, tmp_path, write("shop/maths.py", GOOD.replace("n / 2", "n * 0.5")))
    assert end.passed and end.verbatim is False


def test_without_a_fix_verbatim_is_not_known(repo: Path, tmp_path: Path) -> None:
    end, _, _ = rollout(one(tmp_path, ""), tmp_path, write("shop/maths.py", GOOD))
    assert end.passed and end.verbatim is None


def cli(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "repo_agent.cli", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


@pytest.mark.slow
def test_the_chain_over_a_suite_file(tmp_path: Path) -> None:
    """Oracle runs, a dataset whose card names the near duplicates, and a comparison that counts verbatim fixes."""
    text = ""
    for name in ("half", "third", "fourth"):
        test = f"from m import {name}\n\n\ndef test_it():\n    assert {name}(4) == 2\n"
        lay(tmp_path / name, {"m.py": f"def {name}(n):\n    return n * 2\n", "test_m.py": test})
        fix = json.dumps(f"def {name}(n):\n    total = n / 2\n    print(total)\n    return total\n")
        text += f'[[tasks]]\nid = "{name}"\nrepo = "{name}"\ngoal = "Fix it."\nfix = {{"m.py" = {fix}}}\n'
    (tmp_path / "suite.toml").write_text(text)
    suite, data = tmp_path / "suite.toml", tmp_path / "data"
    play_all = ("--model", "oracle", "--held-out", 1, "--split")
    for name, side in (("teacher", "train"), ("one", "held-out"), ("two", "held-out")):
        assert cli("eval", "--suite", suite, *play_all, side, "--out", tmp_path / name)["pending"] == 0
    assert cli("build", tmp_path / "teacher", "--out", data)["near_duplicates"] == 2
    card, record = (data / "card.md").read_text(), json.loads((data / "dataset.json").read_text())
    assert "2 pairs of a train and a held-out task compared" in card and "2 are alike by 0.5 or more" in card
    assert record["near_duplicates"]["highest"]["similarity"] >= 0.5
    suite.write_text(text.replace("Fix it.", "Mend it."))
    assert cli("build", tmp_path / "teacher", "--out", tmp_path / "later")["near_duplicates"] is None
    assert "Not checked: the suite that the runs name has changed since" in (tmp_path / "later/card.md").read_text()
    compared = cli("compare", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "report")
    assert [arm["verbatim"] for arm in compared["arms"]] == [1, 1]
    assert "word for word: 1 of 1 passed rollouts (memory?)" in (tmp_path / "report/report.html").read_text()
    index = tmp_path / "one/results.jsonl"
    index.write_text(index.read_text().replace(', "verbatim": true', ""))
    assert [row.verbatim for row in load_arm(tmp_path / "one").rows] == [None]
