"""The grader: real child processes, code that cheats, hangs, floods, forks; and the layer around them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from attacks import leftovers, sandboxed

from repo_agent.errors import InfraError, UserError
from repo_agent.sandbox import canary, isolate
from repo_agent.sandbox.canary import choose
from repo_agent.sandbox.cases import Case, Cases
from repo_agent.sandbox.grade import grade
from repo_agent.sandbox.isolate import Isolation, Plan
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.supervise import fresh, run
from repo_agent.sandbox.watch import Bounds
from repo_agent.sandbox.workspace import Workspace

LOCAL = Isolation("unsafe-local")
TEST = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n\n\ndef test_two():\n    assert f(2) == 2\n"
GOOD = "def f(x):\n    return x\n"
JOB = TestJob(tests=("test_m.py",), pristine={"test_m.py": TEST}, test_seconds=2.0)


def judge(program: str, job: TestJob = JOB, isolation: Isolation | None = None, **more: str) -> Grade:
    """Grade a workspace of `m.py`, the tests, and `more` files; `a__b` in a name is `a/b.py`."""
    files = {"m.py": program, **job.pristine, **{f"{name.replace('__', '/')}.py": text for name, text in more.items()}}
    with Workspace(files) as workspace:
        return asyncio.run(grade(workspace.root, job, isolation or choose(unsafe_local=True)))


def job_of(text: str, **changes: object) -> TestJob:
    return replace(JOB, pristine={"test_m.py": text}, **changes)


@pytest.fixture(scope="module")
def layer() -> Isolation:
    """The best layer of this machine."""
    found = choose(unsafe_local=True)
    if found == LOCAL:
        pytest.skip("this machine gives no layer of isolation")
    return found


def test_counts_and_messages():
    assert judge(GOOD) == Grade("passed", 2, 0, 0, 2, "2 passed")
    one = "def f(x):\n    return 1\n"
    line = "test_m.py::test_two: AssertionError: assert 1 == 2"
    assert judge(one) == Grade("failed", 1, 1, 0, 2, f"1 failed, 1 passed\n{line}")


def test_skips_are_no_passes():
    skips = (
        "import pytest\n\n\ndef test_a():\n    pytest.skip('no')\n\n\n@pytest.mark.xfail\ndef test_b():\n    assert 0\n"
    )
    assert judge(GOOD, job_of(skips)) == Grade("failed", 0, 0, 2, 2, "2 skipped")


def test_a_failing_teardown_fails_the_test():
    text = "import pytest\n\n\n@pytest.fixture\ndef a():\n    yield\n    1 / 0\n\n\ndef test_a(a):\n    pass\n"
    result = judge(GOOD, job_of(text))
    assert (result.passed, result.failed) == (0, 1)
    assert result.output.endswith("test_m.py::test_a: ZeroDivisionError: division by zero")


def test_a_skip_at_teardown_hides_no_failure():
    text = "import pytest\n\n\n@pytest.fixture\ndef a():\n    yield\n    pytest.skip('no')\n\n\n"
    result = judge(GOOD, job_of(text + "def test_a(a):\n    assert 0\n\n\ndef test_b():\n    pass\n"))
    assert (result.outcome, result.output.splitlines()[0]) == ("failed", "1 failed, 1 passed")


@pytest.mark.parametrize(
    ("program", "outcome", "output"),
    [
        ("import sys\nsys.exit(0)\n", "failed", "1 error\ncollecting the tests: SystemExit: 0"),
        (
            "import os\n\n\ndef f(x):\n    os._exit(0)\n",
            "crashed",
            "crashed, 1 not run\ntest_m.py::test_one: the process ended here",
        ),
        (
            "import pytest\n\n\ndef f(x):\n    pytest.exit('done', returncode=0)\n",
            "failed",
            "2 not run\ntest_m.py::test_one: the process ended here",
        ),
        ("def f(x)\n", "failed", "1 error\ntest_m.py: SyntaxError: expected ':' (m.py, line 1)"),
        ("import nowhere\n", "failed", "1 error\ntest_m.py: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_what_never_passes(program, outcome, output):
    result = judge(program, replace(JOB, test_seconds=20.0))
    assert (result.outcome, result.output, result.passed) == (outcome, output, 0)


def test_exit_in_a_test_fails_that_test():
    result = judge("import sys\n\n\ndef f(x):\n    sys.exit(0)\n")
    assert (result.outcome, result.failed) == ("failed", 2)


def test_no_tests():
    assert judge(GOOD, job_of("x = 1\n")) == Grade("no_tests", 0, 0, 0, 0, "no tests")


def test_a_hang_stops_the_session_at_the_first_test():
    body = "    while True:\n        try:\n            print('x' * 9999)\n        except:\n            pass\n"
    result = judge(f"def f(x):\n{body}", replace(JOB, test_seconds=0.4))
    lines = "timed out, 1 not run\ntest_m.py::test_one: took longer than 0.4 s"
    assert result == Grade("timed_out", 0, 0, 0, 2, lines)


def test_a_test_that_waits_is_stopped_by_the_clock():
    started = time.monotonic()
    result = judge("import time\n\n\ndef f(x):\n    time.sleep(60)\n", replace(JOB, test_seconds=0.2))
    assert time.monotonic() - started < 55
    assert (result.outcome, result.output.splitlines()[0]) == ("timed_out", "timed out, 1 not run")


def test_a_hang_at_import():
    result = judge("while True:\n    pass\n", replace(JOB, test_seconds=0.4))
    assert result == Grade("timed_out", 0, 0, 0, None, "timed out\ncollecting the tests: took longer than 0.4 s")


def test_the_wall_holds_where_the_alarm_is_ignored():
    deaf = (
        "import signal\n\n\ndef f(x):\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "    signal.signal(signal.SIGPROF, signal.SIG_IGN)\n    while True:\n        pass\n"
    )
    result = judge(deaf, replace(JOB, test_seconds=5.0, bounds=Bounds(wall_seconds=8.0)))
    assert result.outcome == "timed_out"
    # On a machine that is busy enough, the wall stands before the test.
    assert re.fullmatch(
        r"(test_m.py::test_one|collecting the tests): took longer than 8 s", result.output.splitlines()[1]
    )


def test_memory_is_bounded():
    result = judge("def f(x):\n    return bytearray(2**31)\n")
    assert (result.outcome, result.output.splitlines()[0]) == ("out_of_memory", "out of memory, 2 failed")


def test_written_files_are_bounded():
    flood = "def f(x):\n    open('big', 'wb').write(b'x' * 2**21)\n    return x\n"
    result = judge(flood, replace(JOB, bounds=Bounds(file_bytes=2**20)))
    assert (result.outcome, "File too large" in result.output) == ("failed", True)


DAEMON = """import os, time

def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.wait()
    return x
"""


def test_a_detached_grandchild_neither_holds_the_grade_nor_outlives_it():
    started = time.monotonic()
    assert judge(DAEMON, isolation=LOCAL).outcome == "passed"
    assert time.monotonic() - started < 55
    assert leftovers() == []


def test_the_network_is_there_only_without_a_layer(layer):
    text = (
        "import socket\nimport pytest\n\n\ndef test_net():\n    with pytest.raises(OSError):\n"
        '        socket.create_connection(("127.0.0.1", {port}), timeout=1)\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        job = job_of(text.format(port=listener.getsockname()[1]))
        assert judge(GOOD, job, layer).output == "1 passed"
        assert "DID NOT RAISE" in judge(GOOD, job, LOCAL).output


def test_clean_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    text = """import os, sys
from pathlib import Path

def test_a():
    assert "OPENAI_API_KEY" not in os.environ
    assert Path.home() == Path.cwd().parent / "home"
    assert sys.stdin.read() == ""
    assert not sys.argv[1:]
"""
    assert judge(GOOD, job_of(text)).output == "1 passed"


def test_same_files_same_bytes():
    program = "def f(x):\n    open('seen', 'w').close()\n    return object(), {'a', 'b', 'c', __file__}\n"
    outputs = {judge(program).output for _ in range(2)}
    assert len(outputs) == 1
    assert "0x…" in outputs.pop()


def test_output_is_short():
    many = (
        "import pytest\n\n\n@pytest.mark.parametrize('n', range(9))\ndef test_n(n):\n    raise ValueError('x' * 999)\n"
    )
    lines = judge(GOOD, job_of(many)).output.splitlines()
    assert lines[0] == "9 failed"
    assert len(lines) == 4
    assert max(map(len, lines)) == 160


def test_edited_tests_are_put_back_and_the_workspace_stays_as_it_is():
    with Workspace({"m.py": "def f(x):\n    return 0\n", "test_m.py": TEST}) as workspace:
        (workspace.root / "test_m.py").write_text("def test_one():\n    pass\n")
        before = workspace.digest()
        assert asyncio.run(grade(workspace.root, JOB, choose(unsafe_local=True))).failed == 2
        assert workspace.digest() == before


def test_a_folder_in_the_place_of_a_test_file():
    with Workspace({"m.py": GOOD}) as workspace:
        (workspace.root / "test_m.py").mkdir()
        (workspace.root / "test_m.py" / "inner.txt").write_text("")
        assert asyncio.run(grade(workspace.root, JOB, choose(unsafe_local=True))).outcome == "passed"


CHEAT = "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n"


def test_a_conftest_of_the_model_is_left_out_and_one_of_the_task_is_used():
    assert judge("f = None\n", conftest=CHEAT, sitecustomize="1 / 0\n").failed == 2
    own = replace(JOB, hidden={"conftest.py": CHEAT})
    assert judge("f = None\n", own).outcome == "passed"


def test_a_program_that_stops_the_timers_is_timed_out_all_the_same(layer):
    stops = "import signal, time\ndef f(x):\n    signal.setitimer(signal.ITIMER_PROF, 0)\n"
    result = judge(
        stops + "    end = time.process_time() + 3\n    while time.process_time() < end: pass\n    return x\n",
        JOB,
        layer,
    )
    assert (result.outcome, result.passed) == ("timed_out", 0)


def test_a_workspace_that_cannot_be_laid_out_is_a_grade(layer):
    for more in ({f"a{n}__b{n}__c{n}__d": "" for n in range(5_000)}, {"__".join("a" * 200): ""}):
        assert judge(GOOD, JOB, layer, **more).outcome == "failed"
    full = {f"a{n}": "x" for n in range(900)} | {"big": " " * (JOB.bounds.disk_bytes - 3 * 2**20)}
    assert judge(GOOD, JOB, layer, **full).outcome == "failed"


def test_stale_bytecode_and_links_do_not_come_along(tmp_path):
    (tmp_path / "secret.py").write_text("f = abs\n")
    with Workspace({"test_m.py": TEST}) as workspace:
        (workspace.root / "m.py").symlink_to(tmp_path / "secret.py")
        assert "No module named 'm'" in asyncio.run(grade(workspace.root, JOB, LOCAL)).output


def test_a_runner_that_does_not_start_is_our_error(tmp_path):
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\ncase $1 in -c) echo \'["/usr", "/usr"]\';; *) echo no; exit 3;; esac\n')
    broken.chmod(0o755)
    with pytest.raises(InfraError, match=r"did not start \(exit 3\): no"):
        judge(GOOD, replace(JOB, python=str(broken)), LOCAL)


def test_an_interpreter_that_never_heard_of_us(tmp_path):
    """A virtual environment with pytest and without this package; tested code may have a package of our name."""
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "more.pth").write_text(str(Path(pytest.__file__).parent.parent))
    text = "import sys\nimport repo_agent\n\n\ndef test_a():\n    assert repo_agent.x == 1 and 'venv' in sys.prefix\n"
    job = replace(job_of(text), python=str(tmp_path / "venv" / "bin" / "python"))
    assert judge(GOOD, job, LOCAL, repo_agent="x = 1\n").output == "1 passed"


def test_a_cancelled_grade_leaves_no_process():
    async def cancel() -> None:
        with Workspace({"m.py": "while True:\n    pass\n", "test_m.py": TEST}) as workspace:
            job = asyncio.create_task(grade(workspace.root, replace(JOB, test_seconds=60), choose(unsafe_local=True)))
            while not sandboxed():
                await asyncio.sleep(0.02)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    asyncio.run(cancel())
    assert leftovers() == []


def test_a_machine_without_any_layer_is_refused_unless_told(monkeypatch):
    canary.fault.cache_clear()
    monkeypatch.setattr(isolate, "LAYERS", canary.LAYERS[:2])
    monkeypatch.setattr(canary, "LAYERS", canary.LAYERS[:2])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    try:
        with pytest.raises(UserError, match=r"bubblewrap: there is no bwrap; namespaces: .*--unsafe-local"):
            choose()
        assert choose(unsafe_local=True) == LOCAL
    finally:
        canary.fault.cache_clear()


def test_a_command_counts_by_its_exit_code(layer):
    shown = "import sys\nprint('x' * 100_000)\nprint('the end', file=sys.stderr)\nsys.exit(3)\n"
    result = judge(GOOD, replace(JOB, command=("python", "check.py")), layer, check=shown)
    assert (result.outcome, result.passed, result.failed, result.expected) == ("failed", 0, 1, None)
    assert result.output.startswith("exit code 3\n[...]")
    assert result.output.endswith("the end")
    assert judge(GOOD, replace(JOB, command=("python", "-c", "import m")), layer).outcome == "passed"


def test_a_command_that_is_not_there_or_lasts(layer):
    assert "nothing-such" in judge(GOOD, replace(JOB, command=("nothing-such",)), layer).output
    job = replace(JOB, command=("sh", "-c", "sleep 60 & sleep 60"), bounds=Bounds(wall_seconds=1.0))
    assert judge(GOOD, job, layer).output == "took longer than 1 s"
    assert leftovers() == []


@contextlib.contextmanager
def one_processor(others: int) -> Iterator[None]:
    """This process and what it starts on one processor, beside so many programs that never wait."""
    allowed = os.sched_getaffinity(0)
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {min(allowed)})
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin, start_new_session=True) for _ in range(others)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), allowed)


def test_the_wall_stands_still_while_other_programs_have_the_processor(layer):
    """Half a second of work against seven others takes some four."""
    work = "import time\nwhile time.process_time() < 0.5: pass\n"
    job = replace(JOB, command=("python", "-c", work), bounds=Bounds(wall_seconds=3.0))
    with one_processor(7):
        began = time.monotonic()
        assert judge(GOOD, job, layer).outcome == "passed"
        assert time.monotonic() - began > 3


@pytest.mark.parametrize(("work", "code"), [("while time.process_time() < 0.5: pass", 0), ("time.sleep(60)", 3)])
def test_so_does_the_clock_of_one_test(work: str, code: int) -> None:
    """Half a second of work against seven others takes some four; the clock gives it 2.4."""
    arm = "from repo_agent.sandbox.child.session import Clock\nClock(lambda *_: os._exit(3)).arm(0.6)\n"
    with one_processor(7):
        ended = subprocess.run(
            [sys.executable, "-c", f"import os, time\n{arm}{work}"], timeout=60, start_new_session=True, check=False
        )
    assert ended.returncode == code


def test_an_interpreter_may_be_a_link_from_elsewhere(tmp_path):
    (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))
    inside = isolate.interpreter(sys.executable)
    placed = isolate._placed(str(tmp_path / "python"), sys.base_prefix, sys.base_prefix)
    assert placed.path == os.path.realpath(sys.executable) and set(placed.folders) <= set(inside.folders)


def test_an_interpreter_may_be_called_by_a_way_that_goes_up(layer, monkeypatch, tmp_path):
    """`../.venv/bin/python`, as from a folder of the project, which is not there inside."""
    way = os.path.join(tmp_path, os.path.relpath(sys.executable, tmp_path))
    assert judge(GOOD, replace(JOB, python=way), layer).outcome == "passed"
    monkeypatch.setattr(sys, "executable", way)
    isolate.interpreter.cache_clear()
    try:
        assert judge(GOOD, JOB, layer).outcome == "passed"
    finally:
        isolate.interpreter.cache_clear()


HOLDS = """
import sys, time
from pathlib import Path
from repo_agent.sandbox import workspace
workspace._UNLOCKED_SECONDS = 0.0
with workspace.Workspace({"m.py": ""}) as made:
    print(made.root, flush=True)
    if len(sys.argv) > 1:
        time.sleep(60)
"""


def test_what_a_killed_process_leaves_goes_with_the_next_one(tmp_path):
    """And what another one holds, or belongs to nobody of ours, stays."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    start = [sys.executable, "-c", HOLDS]
    with contextlib.ExitStack() as stack:
        begun = []
        for _ in range(2):  # the second once the first holds its folder
            asked = {"env": environment, "stdout": subprocess.PIPE, "text": True}
            process = stack.enter_context(subprocess.Popen([*start, "stay"], **asked))
            begun.append((process, Path(process.stdout.readline().strip())))
        (one, killed), (other, held) = begun
        (tmp_path / "repo-agent-runs").mkdir()
        (tmp_path / "repo-agent-run-link").symlink_to("/")
        one.kill()
        one.wait()
        assert killed.is_dir()
        time.sleep(0.1)
        subprocess.run(start, env=environment, check=True, stdout=subprocess.DEVNULL)
        left = {held.name, "repo-agent-runs", "repo-agent-run-link"}
        assert {path.name for path in tmp_path.iterdir()} == left and (held / "m.py").is_file()
        other.kill()


FORKS = "import os\nfor _ in range(3): os.fork()\nwhile True: pass\n"
UNCOUNTED = """import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if sum(1 for name in os.listdir("/proc") if name.isdigit()) < 24 and os.fork() == 0:
        while time.process_time() < 0.06: pass
        os._exit(0)
"""
"""Programs whose time the kernel adds to no parent, beside one that waits for them."""


@pytest.mark.parametrize("spin", [FORKS, UNCOUNTED], ids=["forks", "children that nobody waits for"])
def test_what_a_run_takes_from_itself_does_not_extend_its_wall(layer, spin):
    job = replace(JOB, command=("python", "-c", spin), bounds=Bounds(wall_seconds=4.0))
    with one_processor(0):
        began = time.monotonic()
        assert judge(GOOD, job, layer).outcome == "timed_out"
        assert time.monotonic() - began < 20  # beside three busy programs it would be 16
    assert leftovers() == []


def test_folders_of_the_task_are_importable():
    job = replace(JOB, pythonpath=("src",), own=frozenset({"queue"}))
    assert judge("from queue import f\n", job, src__queue=GOOD).outcome == "passed"


CASES = Cases("m", "f", (Case((1,), [1, "a"]), Case((2,), 0.5, 0.1), Case((3,), {"k": [3]})))


@pytest.mark.parametrize(
    ("body", "outcome", "lines"),
    [
        ("return {1: (1, 'a'), 2: 0.51, 3: {'k': iter([3])}}[x]", "passed", ["3 passed"]),
        ("return {1: (1, 'b'), 2: 0.7, 3: None}[x]", "failed", ["3 failed", "f(1): gave [1, 'b'], not [1, 'a']"]),
        ("return {1: (1, 'a'), 2: 0.5}[x]", "failed", ["1 failed, 2 passed", "f(3): KeyError: 3"]),
        ("return f", "failed", ["3 failed", "f(1): TypeError: a function is no JSON value"]),
        (
            "while x == 2: pass\n    return (1, 'a')",
            "timed_out",
            ["timed out, 1 passed, 1 not run", "f(2): took longer than 1 s"],
        ),
        ("import os; os._exit(0)", "crashed", ["crashed, 2 not run", "f(1): the process ended here"]),
    ],
)
def test_cases_are_compared_outside(body, outcome, lines):
    job = replace(JOB, cases=CASES, test_seconds=1.0)
    result = judge(f"def f(x):\n    {body}\n", job)
    assert result.outcome == outcome
    assert result.output.splitlines()[: len(lines)] == lines


def test_cases_keep_what_is_expected_away():
    reads = "import os\ndef f(x):\n    raise OSError(sorted(os.listdir('.')))\n"
    assert "OSError: ['m.py']" in judge(reads, replace(JOB, cases=CASES)).output


def test_cases_without_a_function():
    assert judge("x = 1\n", replace(JOB, cases=CASES)).output.splitlines()[0] == "1 error, 3 not run"


def test_workspace_keeps_bytes_and_goes():
    files = {"a.py": "x = 1\r\ny = 'ü'\n", "deep/er/b.py": ""}
    with Workspace(files) as one, Workspace(files) as two:
        assert (one.root / "a.py").read_bytes() == files["a.py"].encode()
        assert one.digest() == two.digest()
        (two.root / "deep" / "c.py").write_text("")
        assert one.digest() != two.digest()
        (one.root / "loop").symlink_to(one.root)
        os.mkfifo(one.root / "pipe")
        (one.root / "deep").chmod(0)
        root: Path = one.root
    assert not root.exists()


def test_a_path_that_only_fits_where_it_is():
    """Longer than 3,000 bytes: in the sandbox's own folder it might not fit."""
    files = {"m.py": GOOD, "test_m.py": TEST, "/".join(["a" * 240] * 16) + "/" + "b" * 150: "", "d/" * 900 + "x": ""}
    with Workspace(files) as workspace:
        assert (
            asyncio.run(grade(workspace.root, JOB, LOCAL)).output == "a path in the workspace is too long to be tested"
        )
    assert not workspace.root.exists()


def test_files_of_this_machine_are_not_counted_as_the_sandboxs() -> None:
    """As while bwrap is slow to change the root of its process."""
    plan = Plan((sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '0.4'])"), "/", inner=("/usr",))
    with tempfile.TemporaryFile() as job:
        assert run(plan, fresh(plan.command, os.environ), job, Bounds(files=1), threading.Event()).over == ""
