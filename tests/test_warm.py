"""Runs that are forked by a server: none reaches the server, nor a run before it or beside it."""

from __future__ import annotations

import fractions
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from attacks import children, leftovers, servers

from repo_agent.errors import InfraError
from repo_agent.sandbox import canary, results, warm
from repo_agent.sandbox.child import marks
from repo_agent.sandbox.child.guard import WATCHED
from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.watch import Bounds
from repo_agent.sandbox.workspace import Workspace

LAYER = Isolation("bubblewrap")


@pytest.fixture(autouse=True)
def _server() -> Iterator[None]:
    """A server of one's own, which must have been used."""
    if reason := canary.fault(LAYER.name):
        pytest.skip(reason)
    if not warm.serves(LAYER, TestJob((), {})):
        pytest.skip("this interpreter lies below a folder that each run has anew, so no run is forked")
    warm.close()
    warm._FAILURES.clear()
    yield
    assert not warm._FAILURES


PROGRAM = "def f(x):\n    return x\n"


def ran(body: str, program: str = PROGRAM, head: str = "from m import f", seconds: float = 60.0) -> Grade:
    """The grade of one test with this body."""
    test = f"import os, signal, socket, sys, time\n{head}\n\n\ndef test_one():\n"
    test += "".join(f"    {line}\n" for line in body.splitlines())
    job = TestJob(("test_m.py",), {"test_m.py": test}, test_seconds=seconds, bounds=Bounds(wall_seconds=240.0))
    with Workspace({"m.py": program}) as workspace:
        return grade_now(workspace.root, job, LAYER)


def passes(body: str, program: str = PROGRAM) -> None:
    assert ran(body, program).output == "1 passed"


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def said(body: str) -> str:
    """What `words` is at the end of the body, in a run that was forked and in one that was not."""
    return ran(f"{body}\nraise RuntimeError(str(words))").output


SAME = {
    "modules": "import hashlib\nnames = sorted(n for n in sys.modules if not n.startswith('test_'))\n"
    "words = len(names), hashlib.md5(' '.join(names).encode()).hexdigest()",
    "environment": "words = sorted(os.environ.items())",
    "path and arguments": "words = sys.path, sys.argv[1:], sys.flags, sys.stdin.read(), os.getcwd()",
    "signals": "words = [str(signal.getsignal(n))[:9] for n in range(1, 32)], signal.pthread_sigmask(0, [])",
    "descriptors": "at = '/proc/self/fd/'\nnames = [at + n for n in os.listdir(at) if os.path.lexists(at + n)]\n"
    "words = sorted(os.readlink(name).split(':')[0] for name in names)",
    "limits": "import resource\nwords = [resource.getrlimit(n) for n in range(16)]",
    "rights": "names = ('CapP', 'CapE', 'CapA', 'CapB', 'NoNew', 'Secc', 'Groups')\n"
    "words = [line.split()[1:] for line in open('/proc/self/status') if line.startswith(names)]",
    "processes": "words = os.getpid(), sorted(n for n in os.listdir('/proc') if n.isdigit())",
    "file systems": "words = [sorted(os.listdir(p)) for p in ('/', '/tmp', '/dev', '/dev/shm', '/repo-agent')]",
    "network": "words = socket.if_nameindex(), socket.create_server(('127.0.0.1', 7777)).close()",
}


def test_a_forked_run_begins_as_a_process_of_its_own_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run looks at all of it, and says what it saw as a short digest each."""
    monkeypatch.setattr(results, "SHOWN_CHARS", 9_000)
    body = (
        f"import hashlib\nseen = {{}}\nfor name, look in {SAME!r}.items():\n"
        "    space = dict(globals())\n    exec(look, space)\n"
        "    seen[name] = hashlib.md5(repr(space['words']).encode()).hexdigest()[:8]\nwords = seen"
    )
    forked = said(body)
    monkeypatch.setattr(warm, "serves", lambda *_: False)
    assert said(body) == forked
    assert all(name in forked for name in SAME)


def test_two_runs_differ_in_what_is_random() -> None:
    for body in ("import random\nwords = random.random()", "import uuid\nwords = uuid.uuid4()", "words = os.getuid()"):
        assert said(body) != said(body) or ("getuid" in body and os.getuid())


def test_a_run_sees_no_process_but_its_own() -> None:
    passes(
        "assert os.getppid() == 1\n"
        "for name in ('mem', 'maps', 'environ', 'fd', 'root', 'cwd', 'exe', 'map_files', 'fdinfo'):\n"
        "    path = f'/proc/1/{name}'\n    try:\n"
        "        os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(1)\n"
        "    except OSError:\n        continue\n    raise RuntimeError(name)\n"
        "assert {n for n in os.listdir('/proc') if n.isdigit()} == {'1', str(os.getpid())}"
    )


def test_a_run_has_no_socket_pipe_or_memory_of_others() -> None:
    """Its own are three: standard output, error, and the results, which is a pipe."""
    passes(
        "links = {}\nfor n in os.listdir('/proc/self/fd'):\n    try:\n"
        "        links[int(n)] = os.readlink(f'/proc/self/fd/{n}')\n    except OSError:\n        pass\n"
        "assert [t for t in links.values() if t.startswith('socket:')] == []\n"
        "assert len({t for t in links.values() if t.startswith('pipe:')}) == 1\n"
        "assert [t for t in links.values() if '/tmp' in t or 'memfd' in t] == []\n"
        "assert [line for line in open('/proc/self/maps') if line.split()[1][1::2] == 'ws'] == []\n"
        "try:\n    socket.fromfd(3, socket.AF_UNIX, socket.SOCK_SEQPACKET).send(b'{}')\nexcept OSError:\n    pass\n"
        "else:\n    raise RuntimeError('ESCAPED')"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGCHLD])
def test_a_run_that_signals_all_it_can_harms_no_other(number: signal.Signals) -> None:
    """Those above it and the sibling; it ends with its own grade."""
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(ran, "time.sleep(3)\nassert f(1) == 1")
        time.sleep(1)
        body = (
            f"n = {int(number)}\nfor pid in [os.getppid(), *range(1, 400)]:\n    try:\n"
            "        pid != os.getpid() and os.kill(pid, n)\n        os.killpg(1, n)\n"
            "    except OSError:\n        pass\n"
            "assert f(1) == 1"
        )
        assert ran(body).output == "1 passed"
        assert beside.result().output == "1 passed"
    passes("assert f(1) == 1")


PATCH = """import builtins, json, math, os, sys, pytest, _pytest.runner, random
_pytest.runner.left = pytest.left = math.left = sys.left = builtins.left = json.left = os.left = 1
os.environ['LEFT'] = '1'
sys.modules['left'] = sys
sys.path.append('/left')
json.loads = lambda text: 7
math.isclose = lambda *a: True
os.umask(0)
def f(x):
    return x
"""


def test_what_a_run_changes_in_python_is_not_there_in_the_next() -> None:
    ran("assert f(1) == 1", PATCH)
    passes(
        "import json, math, pytest, builtins, _pytest.runner\n"
        "assert [m for m in (_pytest.runner, pytest, math, sys, builtins, json, os) if hasattr(m, 'left')] == []\n"
        "assert 'LEFT' not in os.environ and 'left' not in sys.modules and '/left' not in sys.path\n"
        "assert json.loads('1') == 1 and not math.isclose(1, 2) and os.umask(18) != 0"
    )


def test_early_marks_are_those_that_a_run_would_make(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted() -> marks.Marks:
        found = marks.Marks(lambda _: None, lambda *_: False)
        found.note_modules(WATCHED)
        return found

    monkeypatch.setattr(marks, "_EARLY", {})
    alone = noted()
    marks.note_early(WATCHED)
    assert len(marks._EARLY) > 100
    early = noted()
    assert [mark[2:] for mark in early.marks] == [mark[2:] for mark in alone.marks]
    assert all(early.has_code(mark.state[0]) for mark in alone.marks if mark.state)


def test_what_has_changed_since_the_early_marks_is_noted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_EARLY", {})
    marks.note_early({"fractions"})
    monkeypatch.setattr(fractions, "Decimal", lambda: 1)
    faults: list[str] = []
    now = marks.Marks(faults.append, lambda *_: False)
    now.note_modules({"fractions"})
    now.check()
    assert not faults
    monkeypatch.setattr(fractions, "Decimal", lambda: 2)
    now.check()
    assert faults == ["fractions.Decimal was replaced"]


PLACES = "('/tmp/left', '/dev/shm/left', os.environ['HOME'] + '/left', '/repo-agent/left', '/repo-agent/work/left')"
LEAVE = f"""import os, socket, fcntl
def f(x):
    for place in {PLACES}:
        open(place, 'w').close()
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)
    kept.bind(chr(0) + 'left')
    kept.listen()
    inet.bind(('127.0.0.1', 7777))
    inet.listen()
    return x
kept, inet = socket.socket(socket.AF_UNIX), socket.socket()
"""
LOOK = f"""import fcntl
assert [place for place in {PLACES} if os.path.exists(place)] == []
assert not fcntl.fcntl(0, fcntl.F_GETFL) & os.O_NONBLOCK
for address, family in ((chr(0) + 'left', socket.AF_UNIX), (('127.0.0.1', 7777), socket.AF_INET)):
    with socket.socket(family) as one:
        assert one.connect_ex(address) != 0"""


def test_files_and_sockets_of_a_run_are_not_there_beside_it_nor_after() -> None:
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(ran, "f(1)\ntime.sleep(4)", LEAVE)
        time.sleep(1.5)
        while not beside.done():
            passes(LOOK)
        assert beside.result().output == "1 passed"
    passes(LOOK)


REACHED = """import os, pty
def reached(change):
    paths = []
    for folder in ('/', '/dev', '/dev/pts', '/dev/shm', '/tmp', '/repo-agent', '/proc', '/proc/irq'):
        for name in ('', *sorted(os.listdir(folder))):
            path = os.path.join(folder, name)
            if not path.startswith('/proc/') or path.count('/') > 2:
                paths.append(path)
    for path in paths:
        change(path)
"""
HARM = (
    REACHED
    + """def f(x):
    kept.append(pty.openpty())
    for do in CHANGES:
        for path in paths:
            tried(do, path)
    return x
def tried(do, path):
    try:
        do(path)
    except OSError:
        pass
kept, paths = [], []
reached(paths.append)
CHANGES = (
    lambda p: os.mkdir(p + '/left'), lambda p: os.symlink('/left', p + '/link'), lambda p: os.mkfifo(p + '/fifo'),
    lambda p: os.chmod(p, 0), lambda p: os.utime(p, (1, 1)), lambda p: os.chown(p, os.getuid(), -1),
    os.unlink, os.rmdir,
    lambda p: os.rename(p, p + '0'), lambda p: p[:5] == '/proc' and os.close(os.open(p, os.O_WRONLY)),
)
"""
)
SEEN = """import hashlib, pty, stat
words = []
reached(lambda path: words.append((path, *os.lstat(path)[:1], os.lstat(path).st_mtime == 1)))
words = hashlib.md5(repr(words).encode()).hexdigest(), [os.close(fd) for fd in pty.openpty()]"""


def test_nothing_that_runs_share_is_changed_beside_a_run_nor_after() -> None:
    """Folders, devices, terminals, settings of the kernel: their names, modes and times."""

    def look() -> str:
        return ran(f"{SEEN}\nraise RuntimeError(words)", "", REACHED).output

    before = look()
    assert "None, None" in before
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(ran, "f(1)\ntime.sleep(4)", HARM)
        time.sleep(1.5)
        while not beside.done():
            assert look() == before
        beside.result()  # it may end anyhow: its own folders are among them
    assert look() == before


def test_the_memory_of_a_run_is_its_own() -> None:
    """Two at once may each have what one may, and one that has more, in three processes, is ended alone."""
    held = "data = b'x' * (650 << 20)\ntime.sleep(3)\nassert f(1) == 1"
    three = "data = any(os.fork() == 0 for _ in range(3)) and b'x' * (450 << 20)\ntime.sleep(30)"
    with ThreadPoolExecutor(2) as pool:
        assert [one.result().output for one in [pool.submit(ran, held) for _ in range(2)]] == ["1 passed"] * 2
        grades = [one.result().outcome for one in [pool.submit(ran, body) for body in (three, held)]]
    assert grades == ["out_of_memory", "passed"]


def test_a_fork_bomb_stops_no_other_run() -> None:
    bomb = "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(ran, bomb, seconds=1.0)
        time.sleep(0.5)
        passes("pids = [os.fork() or os._exit(0) for _ in range(20)]\nassert len(pids) == 20 and f(1) == 1")
        assert beside.result().outcome in ("timed_out", "crashed")
    assert not leftovers()


def during(body: str, kill: Callable[[], int]) -> Future[Grade]:
    """The grade of a run in the middle of which a process is killed."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ran, body)
        until(lambda: len(servers()) == 3 and bool(children(servers()[2])))
        time.sleep(1)
        os.kill(kill(), signal.SIGKILL)
        return running


def test_a_keeper_that_dies_is_our_error() -> None:
    with pytest.raises(InfraError, match="server"):
        during("time.sleep(60)", lambda: children(servers()[2])[0]).result()
    assert not leftovers()
    passes("assert f(1) == 1")


def test_a_server_that_dies_harms_no_run_and_the_next_has_another() -> None:
    assert during("time.sleep(3)\nassert f(1) == 1", lambda: servers()[2]).result().output == "1 passed"
    passes("assert f(1) == 1")
    assert len(servers()) == 3 and not leftovers()


def test_a_server_that_cannot_begin_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run then has a process of its own, and after a few the server is given up."""
    monkeypatch.setattr(warm, "BEGUN", b"another word")
    for _ in range(warm.MOST_FAILURES + 1):
        passes("assert f(1) == 1")
    assert list(warm._FAILURES.values()) == [warm.MOST_FAILURES] and not warm._SERVERS
    warm._FAILURES.clear()


def test_an_interpreter_below_the_folder_for_temporary_files_has_a_process_of_its_own() -> None:
    """/tmp of a run is its own, so what a server has there would be covered."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        place = next((folder / "venv").glob("lib/python*/site-packages"))
        for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"):
            shutil.copytree(Path(pytest.__file__).parent.parent / name, place / name)
        shutil.copy(Path(pytest.__file__).parent.parent / "py.py", place)
        folder.chmod(0o755)
        python = str(folder / "venv/bin/python")
        job = TestJob(("test_m.py",), {"test_m.py": "def test_one():\n    assert 1\n"}, python=python)
        with Workspace({"m.py": PROGRAM}) as workspace:
            assert grade_now(workspace.root, job, LAYER).output == "1 passed"
    finally:
        shutil.rmtree(folder)


def test_servers_end_when_they_are_closed_and_forks_of_ours_do_not_hold_them() -> None:
    passes("assert f(1) == 1")
    pids = servers()
    assert len(pids) == 3
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if not warm._SERVERS else b"0")
        time.sleep(5)
        os._exit(0)
    assert os.read(reading, 1) == b"1"
    warm.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_threads_that_end_take_no_server_with_them() -> None:
    """A server lives as long as the process: the thread that began it may go."""
    grades: list[Grade] = []
    thread = threading.Thread(target=lambda: grades.append(ran("assert f(1) == 1")))
    thread.start()
    thread.join()
    before = servers()
    time.sleep(0.3)
    passes("assert f(1) == 1")
    assert servers() == before and grades[0].output == "1 passed"
