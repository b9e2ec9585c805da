"""Programs that break out, use the machine up or stay behind; each is judged by its effects outside."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import ATTACKS, attacked, leftovers, sandboxed, scratch

from repo_agent.agent.spec import AgentSpec
from repo_agent.messages import ToolCall
from repo_agent.models import Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.episode import Setting, player, rollouts_of
from repo_agent.rollout.meter import Meter
from repo_agent.rollout.runner import Watch, run_rollouts
from repo_agent.sandbox import canary, warm
from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import LAYERS, Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.workspace import Workspace
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry
from repo_agent.traces.store import RunDir

QUICK = {"double fork and setsid", "8 GB in one process", "10 GB of files", "home folder", "TCP", "write outside"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ATTACKS])
def test_the_default_layer_holds(name: str) -> None:
    layer = canary.choose(unsafe_local=True)
    if layer.name not in LAYERS:
        pytest.skip("this machine gives no layer of isolation")
    assert attacked(name, layer).why == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_holds(name: str, layer: str) -> None:
    if reason := canary.fault(layer):
        pytest.skip(reason)
    assert attacked(name, Isolation(layer)).why == ""


METADATA = """import os, pathlib, shutil, subprocess, tarfile, tempfile, zipfile
from m import f

HERE = pathlib.Path('.')


def test_copies_keep_mode_and_time(tmp_path):
    source = HERE / 'tool.sh'
    source.write_text('#!/bin/sh\\necho 1\\n')
    source.chmod(0o755)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    shutil.copy(source, 'a'), shutil.copy2(source, tmp_path / 'b'), shutil.copytree('tests', tmp_path / 'tree')
    assert os.stat('a').st_mode & 0o777 == 0o755 and os.access('a', os.X_OK)
    assert (tmp_path / 'b').stat().st_mtime == 1_000_000_000
    subprocess.run(['cp', '-p', 'tool.sh', 'c'], check=True)
    assert os.stat('c').st_mtime == 1_000_000_000


def test_touch():
    path = HERE / 'touched'
    path.touch(mode=0o640)
    os.utime(path, ns=(5, 7))
    assert path.stat().st_mtime_ns == 7
    path.touch()
    assert path.stat().st_mtime_ns > 10**18
    subprocess.run(['touch', '-d', '2001-09-09', 'touched'], check=True)
    assert 999_900_000 < path.stat().st_mtime < 1_000_100_000
    os.symlink('touched', 'link')
    os.utime('link', ns=(1, 3), follow_symlinks=False)
    assert os.lstat('link').st_mtime_ns == 3 and path.stat().st_mtime_ns > 10**17
    with open('touched') as file:
        os.utime(file.fileno(), ns=(1, 9)), os.fchmod(file.fileno(), 0o600)
    assert path.stat().st_mtime_ns == 9 and path.stat().st_mode & 0o777 == 0o600


def test_unpack(tmp_path):
    with tarfile.open('x.tar', 'w') as tar:
        tar.add('tests'), tar.add('m.py')
    with tarfile.open('x.tar') as tar:
        tar.extractall(tmp_path / 'out')
    with zipfile.ZipFile('x.zip', 'w') as archive:
        archive.write('m.py')
    shutil.unpack_archive('x.zip', tmp_path / 'zip')
    subprocess.run(['tar', 'xf', 'x.tar', '-C', str(tmp_path)], check=True)
    assert (tmp_path / 'out/m.py').read_text() == (tmp_path / 'zip/m.py').read_text() == (tmp_path / 'm.py').read_text()


def test_temporary_and_shut():
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
        os.chmod(file.name, 0o400), os.chmod(folder, 0o500)
        os.chmod(folder, 0o700), os.chown(file.name, os.getuid(), os.getgid())
    os.mkdir('shut', 0)
    os.chmod('shut', 0o700, follow_symlinks=True)
    assert f(1) == 1
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_tests_that_copy_touch_and_unpack_pass(layer: str) -> None:
    if reason := canary.fault(layer):
        pytest.skip(reason)
    pristine = {"tests/test_m.py": METADATA, "tests/data.txt": "x"}
    with Workspace({"m.py": "def f(x):\n    return x\n", **pristine}) as workspace:
        result = grade_now(workspace.root, TestJob(("tests",), pristine, test_seconds=20.0), Isolation(layer))
    assert result.output == "4 passed"


DEEP = "import os\nfor n in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\ndef f(x):\n    return x\n"
FORGED = (
    "import gc\ndef f(x):\n    for c in gc.get_objects():\n        if type(c).__name__ == 'Channel':\n"
    "            {}\n    return x\n"
)
FAILURES = {
    "a path of 1500 parts": {"a/" * 1500 + "x": ""},
    "a path of 900 parts": {"a/" * 900 + "x": "", "m.py": "def f(x):\n    return x\n"},
    "3000 folders": {"m.py": DEEP},
    "records that are none": {"m.py": FORGED.format("c.write('collected', ids=5), c.write('end')")},
    "records nested without end": {"m.py": FORGED.format("c._encode = lambda o: '[' * 90000, c.write('x')")},
    "a name with every letter": {"m.py": "def f(x):\n    return x\n", "\udcff\n'": "", "-rf": "", " ": ""},
}


@pytest.mark.parametrize("layer", [LAYERS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in LAYERS[1:])])
def test_nothing_that_a_model_does_is_our_error(layer: str, tmp_path: Path) -> None:
    """Six tasks in a row; five errors of ours would end the run."""
    if reason := canary.fault(layer):
        pytest.skip(reason)
    test = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n"
    tasks = [Task(name, "g", {"m.py": "f = None\n", "test_m.py": test}, ("test_m.py",)) for name in FAILURES]
    json = PROTOCOLS["json"]

    def model(task: Task, number: int) -> Scripted:
        calls = [
            ToolCall("write_file", {"rel_path": path, "content": text}) for path, text in FAILURES[task.id].items()
        ]
        return Scripted([*map(json.render_call, calls), *[json.render_final("done")] * 4])

    spec, sampling = AgentSpec(default_registry(), json), Sampling()
    setting = Setting("own", "base", "scripted", spec, sampling, 0, False, Isolation(layer))
    run = RunDir.open(tmp_path / "run", {})
    with scratch() as folder:
        play = player(tasks, model, setting, Meter(), Watch())
        asyncio.run(run_rollouts(rollouts_of(tasks, 1), play, run, 2))
        assert list(folder.iterdir()) == []
    passed = {row["task"]: row["passed"] for row in run.write_index()}
    good = {"a path of 900 parts", "a name with every letter"}
    assert set(passed) == set(FAILURES) and good <= {name for name, is_good in passed.items() if is_good}
    assert not any(passed[name] for name in set(FAILURES) - good - {"3000 folders"})


def test_an_answer_that_equals_everything_is_no_pass_in_a_rollout(tmp_path: Path) -> None:
    test = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n"
    programs = {
        "any": "from unittest import mock\ndef f(x):\n    return mock.ANY\n",
        "good": "def f(x):\n    return x\n",
    }
    tasks = [Task(name, "g", {"m.py": "f = None\n", "test_m.py": test}, ("test_m.py",)) for name in programs]
    json = PROTOCOLS["json"]

    def model(task: Task, number: int) -> Scripted:
        write = ToolCall("write_file", {"rel_path": "m.py", "content": programs[task.id]})
        return Scripted([json.render_call(write), *[json.render_final("done")] * 4])

    spec, layer = AgentSpec(default_registry(), json), canary.choose(unsafe_local=True)
    setting = Setting("own", "base", "scripted", spec, Sampling(), 0, False, layer)
    run = RunDir.open(tmp_path / "run", {})
    asyncio.run(run_rollouts(rollouts_of(tasks, 1), player(tasks, model, setting, Meter(), Watch()), run, 1))
    assert {row["task"]: row["passed"] for row in run.write_index()} == {"any": False, "good": True}


ASKS = """import os
def f(x):
    seen = []
    for name in ('stat', 'lstat', 'listdir', 'readlink', 'open', 'listxattr'):
        for path in ({secret!r}, {folder!r}):
            try:
                getattr(os, name)(path, 0) if name == 'open' else getattr(os, name)(path)
                seen.append(name)
            except OSError:
                pass
    raise RuntimeError(' '.join(sorted(set(seen))))
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_what_can_be_asked_about_files_outside(layer: str, tmp_path: Path) -> None:
    """That they are there, how large and how old, where Landlock keeps files apart; neither names nor contents."""
    if reason := canary.fault(layer):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        test = "from m import f\n\n\ndef test_one():\n    f(1)\n"
        program = ASKS.format(secret=str(secret), folder=folder)
        with Workspace({"m.py": program, "test_m.py": test}) as workspace:
            result = grade_now(workspace.root, TestJob(("test_m.py",), {"test_m.py": test}), Isolation(layer))
    seen = "" if layer == "bubblewrap" else "lstat stat"
    assert result.output.splitlines()[-1] == f"test_m.py::test_one: RuntimeError: {seen}".rstrip(
        ": " if not seen else ""
    )


ENDLESS = """import sys
sys.path.insert(0, sys.argv[1])
from forgeries import Forgery, forged
from repo_agent.sandbox.isolate import Isolation
forged(Forgery("import time\\nwhile True:\\n    time.sleep(0.1)\\n"), Isolation(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "layer", [LAYERS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in LAYERS[1:]), "unsafe-local"]
)
def test_nothing_outlives_us_when_we_are_killed(layer: str) -> None:
    if layer in LAYERS and (reason := canary.fault(layer)):
        pytest.skip(reason)
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(Path(__file__).parent), layer])
    try:
        _until(lambda: len(sandboxed()) > (5 if warm.serves(Isolation(layer), TestJob((), {})) else 1))  # a server too
    finally:
        process.kill()
        process.wait()
    _until(lambda: not leftovers())


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)
