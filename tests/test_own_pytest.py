"""Repositories that plain pytest passes pass here too; where one cannot, the row says why and what cures it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repo_agent.errors import UserError
from repo_agent.sandbox import canary
from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import LAYERS, Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.workspace import Files, Workspace
from repo_agent.tasks import load_suite
from repo_agent.tasks.cures import cures
from repo_agent.tasks.task import Task
from repo_agent.tools.files import write_file
from repo_agent.tools.registry import ToolError


def graded(files: Files, *args: str, layer: str = "") -> Grade:
    if layer and (reason := canary.fault(layer)):
        pytest.skip(reason)
    with Workspace(files) as workspace:
        job = TestJob((".",), files, args=args, test_seconds=10.0)
        return grade_now(workspace.root, job, Isolation(layer) if layer else canary.choose(unsafe_local=True))


def with_(fixture: str, body: str) -> str:
    return f"def test_a({fixture}):\n    {body}\n"


def ini(*lines: str) -> str:
    return "\n".join(["[pytest]", *lines, ""])


PASS = with_("", "pass")
DOCTEST = "def f():\n    '''\n    >>> f()\n    {}\n    '''\n    return 1\n"
PLAIN = {
    "tmpdir": {"test_a.py": with_("tmpdir", "assert not tmpdir.join('x').check()")},
    "cache": {"test_a.py": with_("cache", "cache.set('a/b', 1); assert cache.get('a/b', 0) == 1")},
    "record_property": {"test_a.py": with_("record_property", "record_property('a', 1)")},
    "doctest": {
        "test_a.txt": ">>> 1 + 1\n2\n",
        "m.py": DOCTEST.format(1),
        "pytest.ini": ini("addopts = --doctest-modules"),
    },
    "junitxml": {"test_a.py": PASS, "pytest.ini": ini("addopts = --junitxml=out.xml", "junit_family = xunit2")},
    "ff": {"test_a.py": PASS, "pytest.ini": ini("addopts = --ff --sw --setup-show")},
    "strict-config": {
        "test_a.py": PASS,
        "pytest.ini": ini("addopts = --strict-config", "cache_dir = .c", "faulthandler_timeout = 5"),
    },
    "pdb": {"test_a.py": with_("pytestconfig", "assert pytestconfig.getoption('usepdb') is False")},
    "faulthandler": {"test_a.py": with_("", "import faulthandler; assert faulthandler.is_enabled()")},
    "a plug-in by -p": {"test_a.py": with_("anyio_backend", "pass"), "pytest.ini": ini("addopts = -p anyio")},
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_plain_pytest_passes_passes(name: str, tmp_path: Path) -> None:
    for path, text in PLAIN[name].items():
        (tmp_path / path).write_text(text)
    plain = subprocess.run([sys.executable, "-m", "pytest", "-q", str(tmp_path)], cwd=tmp_path, capture_output=True)
    assert plain.returncode == 0, plain.stdout
    assert graded(PLAIN[name]).outcome == "passed"


def test_a_doctest_says_what_it_got() -> None:
    assert graded({"m.py": DOCTEST.format(2)}, "--doctest-modules").output.endswith("doctest: expected 2, got 1")


NET, SYSTEM = "refused by the sandbox (no network): ", "refused by the sandbox (sockets and some system calls): "
FILES, PROCESSES = (
    "refused by the sandbox (files outside the workspace): ",
    "refused by the sandbox (limit of processes): ",
)
REFUSED = {
    "import socket; socket.create_connection(('example.com', 80), 1)": NET,
    "import urllib.request; urllib.request.urlopen('http://example.com')": NET,
    "import socket; socket.create_connection(('1.1.1.1', 80), 1)": (NET, SYSTEM),
    "open('/etc/shadow')": FILES,
    "open('/usr/new', 'w')": FILES,
    "import threading, time; [threading.Thread(target=time.sleep, args=(3,)).start() for _ in range(200)]": PROCESSES,
}
NOT_REFUSED = {
    "open('missing')": "FileNotFoundError: ",
    "raise PermissionError(13, 'no', 'own')": "PermissionError: ",
    "raise OSError('mine')": "OSError: mine",
    "raise ValueError('mine')": "ValueError: mine",
}


@pytest.mark.parametrize("layer", [LAYERS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in LAYERS[1:])])
def test_a_test_that_the_sandbox_refuses_says_so(layer: str) -> None:
    for body, said in {**REFUSED, **NOT_REFUSED}.items():
        line = graded({"test_a.py": with_("", body)}, layer=layer).output.splitlines()[1]
        assert line.removeprefix("test_a.py::test_a: ").startswith(said), line


TASK = Task("a", "", {"shop/__init__.py": "", "test_a.py": ""}, ("test_a.py",))
IGNORED, PLUGIN = "`ignored = true`", "add `-p {}` to test_cmd"


@pytest.mark.parametrize(
    ("files", "args", "cure"),
    [
        ({"test_a.py": with_("mocker", "pass")}, (), PLUGIN.format("pytest_mock")),
        ({"test_a.py": "async def test_a():\n    pass\n"}, (), PLUGIN.format("asyncio")),
        ({"test_a.py": PASS}, ("--cov=shop",), PLUGIN.format("pytest_cov")),
        ({"test_a.py": with_("strange", "pass")}, (), "NAME being the plug-in that brings strange"),
        ({"test_a.py": PASS, "pytest.ini": ini("addopts = --strict-config", "asyncio_mode = auto")}, (), "-p asyncio"),
        ({"test_a.py": "import shop._version\n" + PASS}, (), f"{IGNORED} takes what git ignores too; is shop/_vers"),
        ({"test_a.py": "from shop import _version\n" + PASS}, (), "is shop/_version.py"),
        ({"test_a.py": with_("", "open('data/big.csv')")}, (), "is data/big.csv"),
        ({"test_a.py": "import nowhere\n" + PASS}, (), "`python` must name the interpreter of an environment that has"),
        ({"test_a.py": "import deep\n" + PASS, "lib/deep/__init__.py": ""}, (), '`pythonpath = ["lib"]`'),
        ({"test_a.py": with_("", "open('/etc/shadow')")}, (), "leave such tests out"),
    ],
)  # fmt: skip
def test_the_cure_of_what_cannot_work(files: dict[str, str], args: tuple[str, ...], cure: str) -> None:
    files = {"shop/__init__.py": "", **files}
    task = Task("a", "", files, (".",))
    (found,) = cures([(task, graded(files, *args).output)])
    assert cure in found["cure"] and found["tasks"] == "a"


def test_a_failing_test_alone_has_no_cure() -> None:
    assert cures([(TASK, graded({"test_a.py": with_("", "assert 1 == 2")}).output)]) == []


def suite(folder: Path, **task: object) -> str:
    tasks = [{"id": name, "goal": "g", "repo": "repo", **task} for name in ("one", "two")]
    (folder / "suite.json").write_text(json.dumps({"tasks": tasks}))
    return str(folder / "suite.json")


def test_validate_says_a_cure_once(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/m.py").write_text("def f():\n    return 1\n")
    (tmp_path / "repo/test_m.py").write_text("from m import f\n\n\ndef test_f(mocker):\n    assert f() == 1\n")
    spec = suite(tmp_path, bug={"m.py": "def f():\n    return 2\n"})
    command = [sys.executable, "-m", "repo_agent.cli", "suite", "validate", spec, "--unsafe-local"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    assert done.returncode == 1 and [one["tasks"] for one in result["cures"]] == ["one, two"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert " ".join(shown.split()).count("add `-p pytest_mock` to test_cmd (one, two)") == 1


def git(folder: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True).stdout


def test_the_remedy_for_a_patch_without_prefixes_works(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    (repo / "shop").mkdir(parents=True)
    (repo / "shop/m.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q", "repo")
    git(repo, "config", "diff.noprefix", "true")
    git(repo, "add", "-A")
    (repo / "shop/m.py").write_text("x = 2\n")
    (tmp_path / "x.patch").write_bytes(git(repo, "diff", "--relative"))
    git(repo, "checkout", "-q", "shop/m.py")
    spec = suite(tmp_path, bug_patch="x.patch")
    with pytest.raises(UserError, match=r"does not apply.*Make it with `git diff") as error:
        load_suite(spec)
    (repo / "shop/m.py").write_text("x = 2\n")
    words = str(error.value).split("`git ")[1].split("`")[0].split()
    (tmp_path / "x.patch").write_bytes(git(repo, *words))
    git(repo, "checkout", "-q", "shop/m.py")
    assert load_suite(spec).tasks[0].files["shop/m.py"] == "x = 2\n"


LATIN = "# -*- coding: latin-1 -*-\nNAME = 'caf\xe9'\n".encode("latin-1")


@pytest.mark.parametrize("change", [{"bug_patch": "x.patch"}, {"fix": {"m.py": "NAME = 'cafe'\n"}}])
def test_a_source_in_another_encoding_is_refused_in_words(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/m.py").write_bytes(LATIN)
    (tmp_path / "x.patch").write_bytes(
        b"--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,2 @@\n # -*- coding: latin-1 -*-\n-NAME = 'caf\xe9'\n+NAME = 'th\xe9'\n"
    )
    with pytest.raises(UserError, match=r"changes files that are not UTF-8 text \(m.py\).*convert them"):
        load_suite(suite(tmp_path, **change))


def test_a_tool_does_not_change_an_encoding(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes(LATIN)
    assert write_file.fn is not None
    with pytest.raises(ToolError, match=r"m\.py is not UTF-8 text"):
        write_file.fn(tmp_path, "m.py", "x = 1\n")
    assert (tmp_path / "m.py").read_bytes() == LATIN
    (tmp_path / "m.py").write_text("caf\xe9" * 300_000)
    assert write_file.fn(tmp_path, "m.py", "x = 1\n") == "wrote m.py"
