"""The grader: real child processes, code that cheats, hangs, floods, forks; and the layer around them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from repo_agent.errors import InfraError, UserError
from repo_agent.sandbox import isolate
from repo_agent.sandbox.grade import TestJob, grade
from repo_agent.sandbox.isolate import Isolation, probe
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.workspace import Workspace

LOCAL = Isolation("unsafe-local")
TEST = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n\n\ndef test_two():\n    assert f(2) == 2\n"
GOOD = "def f(x):\n    return x\n"
JOB = TestJob(tests=("test_m.py",), pristine={"test_m.py": TEST}, test_seconds=2.0)


def judge(program: str, job: TestJob = JOB, isolation: Isolation | None = None, **more: str) -> Grade:
    """Grade a workspace of `m.py`, the tests, and `more` files; `a__b` in a name is `a/b.py`."""
    files = {"m.py": program, **job.pristine, **{f"{name.replace('__', '/')}.py": text for name, text in more.items()}}
    with Workspace(files) as workspace:
        return asyncio.run(grade(workspace.root, job, isolation or probe(unsafe_local=True)))


def job_of(text: str, **changes: object) -> TestJob:
    return replace(JOB, pristine={"test_m.py": text}, **changes)


@pytest.fixture
def namespaces() -> Isolation:
    isolation = probe(unsafe_local=True)
    if isolation.name != "namespaces":
        pytest.skip("this machine gives no user namespaces")
    return isolation


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
    result = judge(program)
    assert (result.outcome, result.output, result.passed) == (outcome, output, 0)


def test_exit_in_a_test_fails_that_test():
    result = judge("import sys\n\n\ndef f(x):\n    sys.exit(0)\n")
    assert (result.outcome, result.failed) == ("failed", 2)


def test_an_end_without_the_marker_is_no_end():
    """Lines written by the tested code to every open file: the marker is missing, and the process is gone."""
    forged = """import json, os

lines = [
    {"kind": "end", "marker": ""},
    {"kind": "collected", "ids": 7},
    {},
    7,
]
text = "\\n".join(map(json.dumps, lines)) + "\\n" + "[" * 100_000 + "\\n"
for fd in range(3, 64):
    try:
        os.write(fd, text.encode())
    except OSError:
        pass
os._exit(0)
"""
    result = judge(forged)
    assert (result.outcome, result.output) == ("crashed", "crashed\ncollecting the tests: the process ended here")


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
    assert time.monotonic() - started < 15
    assert (result.outcome, result.output.splitlines()[0]) == ("timed_out", "timed out, 1 not run")


def test_a_hang_at_import():
    result = judge("while True:\n    pass\n", replace(JOB, test_seconds=0.4))
    assert result == Grade("timed_out", 0, 0, 0, None, "timed out\ncollecting the tests: took longer than 0.4 s")


def test_the_wall_holds_where_the_alarm_is_ignored():
    deaf = (
        "import signal\n\n\ndef f(x):\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "    signal.signal(signal.SIGPROF, signal.SIG_IGN)\n    while True:\n        pass\n"
    )
    result = judge(deaf, replace(JOB, test_seconds=0.2, wall_seconds=1.5))
    assert (result.outcome, result.output.splitlines()[1]) == (
        "timed_out",
        "test_m.py::test_one: took longer than 1.5 s",
    )


def test_memory_is_bounded():
    result = judge("def f(x):\n    return bytearray(2**31)\n")
    assert (result.outcome, result.output.splitlines()[0]) == ("out_of_memory", "out of memory, 2 failed")


def test_written_files_are_bounded():
    flood = "def f(x):\n    open('big', 'wb').write(b'x' * 2**21)\n    return x\n"
    result = judge(flood, replace(JOB, file_bytes=2**20))
    assert (result.outcome, "File too large" in result.output) == ("failed", True)


DAEMON = """import os, time

def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for _ in range(500):
                with open({path!r}, "a") as file:
                    file.write("x")
                time.sleep(0.02)
        os._exit(0)
    while not os.path.exists({path!r}):
        time.sleep(0.01)
    return x
"""


def test_a_detached_grandchild_does_not_hold_the_grade(tmp_path):
    started = time.monotonic()
    assert judge(DAEMON.format(path=str(tmp_path / "beats")), isolation=LOCAL).outcome == "passed"
    assert time.monotonic() - started < 8


def test_a_detached_grandchild_dies_with_the_namespace(tmp_path, namespaces):
    beats = tmp_path / "beats"
    assert judge(DAEMON.format(path=str(beats)), isolation=namespaces).outcome == "passed"
    before = beats.stat().st_size
    time.sleep(0.2)
    assert 0 < before == beats.stat().st_size


def test_no_network_and_no_foreign_process_in_namespaces(namespaces):
    text = (
        "import os, socket\nimport pytest\n\n\ndef test_net():\n    with pytest.raises(OSError):\n"
        '        socket.create_connection(("127.0.0.1", {port}), timeout=1)\n\n\n'
        'def test_proc():\n    assert [n for n in os.listdir("/proc") if n.isdigit()] == ["1"]\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        job = job_of(text.format(port=listener.getsockname()[1]))
        assert judge(GOOD, job, namespaces).output == "2 passed"
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
        assert asyncio.run(grade(workspace.root, JOB, probe(unsafe_local=True))).failed == 2
        assert workspace.digest() == before


def test_a_folder_in_the_place_of_a_test_file():
    with Workspace({"m.py": GOOD}) as workspace:
        (workspace.root / "test_m.py").mkdir()
        (workspace.root / "test_m.py" / "inner.txt").write_text("")
        assert asyncio.run(grade(workspace.root, JOB, probe(unsafe_local=True))).outcome == "passed"


CHEAT = "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n"


def test_a_conftest_of_the_model_is_left_out_and_one_of_the_task_is_used():
    assert judge("f = None\n", conftest=CHEAT, sitecustomize="1 / 0\n").failed == 2
    own = replace(JOB, hidden={"conftest.py": CHEAT})
    assert judge("f = None\n", own).outcome == "passed"


def test_stale_bytecode_and_links_do_not_come_along(tmp_path):
    (tmp_path / "secret.py").write_text("f = abs\n")
    with Workspace({"test_m.py": TEST}) as workspace:
        (workspace.root / "m.py").symlink_to(tmp_path / "secret.py")
        assert "No module named 'm'" in asyncio.run(grade(workspace.root, JOB, LOCAL)).output


def test_a_runner_that_does_not_start_is_our_error():
    with pytest.raises(InfraError, match="did not start"):
        judge(GOOD, isolation=Isolation("broken", ("false",)))


def test_a_cancelled_grade_leaves_no_process(tmp_path):
    beats = tmp_path / "beats"
    endless = (
        "import time\n\n\ndef f(x):\n    while True:\n"
        f"        open({str(beats)!r}, 'a').write('x')\n        time.sleep(0.01)\n"
    )

    async def cancel() -> None:
        with Workspace({"m.py": endless, "test_m.py": TEST}) as workspace:
            job = asyncio.create_task(grade(workspace.root, replace(JOB, test_seconds=9), probe(unsafe_local=True)))
            while not beats.exists():
                await asyncio.sleep(0.02)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    asyncio.run(cancel())
    time.sleep(0.1)
    before = beats.stat().st_size
    time.sleep(0.1)
    assert beats.stat().st_size == before


def test_probe_refuses_where_there_are_no_namespaces(monkeypatch):
    isolate._namespaces.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    try:
        with pytest.raises(UserError, match="--unsafe-local"):
            probe()
        assert probe(unsafe_local=True) == LOCAL
    finally:
        isolate._namespaces.cache_clear()


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
