"""Programs that cheat their tests or break out of the sandbox, and how to see whether they did.

`test_forgery.py` and `test_containment.py` run them; `benchmarks/containment.py` prints the table of them all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.supervise import Bounds
from repo_agent.sandbox.workspace import Workspace

TEST = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n\n\ndef test_two():\n    assert f(2) == 2\n"
GOOD = "def f(x):\n    return x\n"
WRONG = "def f(x):\n    return 0\n"
UNITTEST = """import unittest
from m import f

class TestF(unittest.TestCase):
    def test_one(self):
        self.assertEqual(f(1), 1)

    def test_two(self):
        self.assertIn(f(2), [2])
"""
RAISES = "import pytest\nfrom m import f\n\n\ndef test_one():\n    with pytest.raises(KeyError):\n        f(1)\n"
JSON_TEST = (
    "import json\nfrom m import f\n\n\ndef test_one():\n    assert json.loads(json.dumps({'a': f(1)})) == {'a': 1}\n"
)
CHEAT = "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n"
NO_FUNCTIONS = "def assert_(*a, **k): pass\n"


@dataclass(frozen=True)
class Forgery:
    """A wrong fix that makes itself look right: `m.py`, further files of the workspace, and the task's test."""

    program: str
    files: Mapping[str, str] = field(default_factory=dict)
    test: str = TEST
    grades: int = 1


ALWAYS = "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n"
FORGED_LINES = """
import json
LINES = [
    {"kind": "collected", "ids": ["test_m.py::test_one", "test_m.py::test_two"]},
    {"kind": "test", "id": "test_m.py::test_one", "outcome": "passed", "message": ""},
    {"kind": "test", "id": "test_m.py::test_two", "outcome": "passed", "message": ""},
    {"kind": "end", "sentinel": True},
]
TEXT = "".join(json.dumps(line) + " 0" * 16 + "\\n" for line in LINES).encode()
"""
FORGERIES = {
    "sys.exit(0) at import": Forgery("import sys\nsys.exit(0)\n"),
    "os._exit(0) at import": Forgery("import os\nos._exit(0)\n"),
    "os._exit(0) in a call": Forgery("import os\ndef f(x):\n    os._exit(0)\n"),
    "test edited": Forgery(WRONG, {"test_m.py": "def test_one(): pass\ndef test_two(): pass\n"}),
    "test deleted": Forgery(WRONG, {"test_m.py": ""}),
    "new conftest.py": Forgery(WRONG, {"conftest.py": CHEAT}),
    "new pytest.ini": Forgery(WRONG, {"pytest.ini": "[pytest]\npython_functions = nothing_*\naddopts = -p m\n"}),
    "new sitecustomize.py": Forgery(
        WRONG, {"sitecustomize.py": "import os\nos._exit(0)\n", "usercustomize.py": "1/0\n"}
    ),
    "pytest.py in the workspace": Forgery(WRONG, {"pytest.py": "class raises:\n    pass\n"}, RAISES),
    "unittest/ in the workspace": Forgery(
        WRONG,
        {"unittest/__init__.py": "class TestCase:\n    def assertEqual(self, *a): pass\n    assertIn = assertEqual\n"},
        UNITTEST,
    ),
    "json.py in the workspace": Forgery(
        WRONG, {"json.py": "def dumps(x): pass\ndef loads(x): return {'a': 1}\n"}, JSON_TEST
    ),
    "Function.runtest replaced": Forgery(
        "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n" + WRONG
    ),
    "runtest of every item replaced": Forgery(
        "import gc, pytest\ndef f(x):\n    for item in gc.get_objects():\n        if isinstance(item, pytest.Function):\n"
        "            if 'sentinel' not in item.name:\n                item.runtest = lambda: None\n    return x if x == 1 else 0\n"
    ),
    "code of the tests replaced": Forgery(
        "import sys\ndef f(x):\n    space = sys._getframe(1).f_globals\n"
        "    space['test_two'].__code__ = (lambda: None).__code__\n    return x if x == 1 else 0\n"
    ),
    "test functions taken from the module": Forgery(
        "import sys\nimport builtins\nreal = builtins.__build_class__\n"
        "frame = sys._getframe()\nwhile frame and not frame.f_globals.get('__name__', '').startswith('test_m'):\n"
        "    frame = frame.f_back\n"
        "import gc, types\n"
        "code = frame.f_code\n"
        "def trace(frame, event, arg):\n"
        "    frame.f_globals.pop('test_two', None)\n    return trace\n"
        "frame.f_trace = trace\nsys.settrace(trace)\n"
        "def f(x):\n    return x if x == 1 else 0\n"
    ),
    "assert rewriting replaced": Forgery(
        "import _pytest.assertion.rewrite as r\nimport _pytest.runner as run\n"
        "r.rewrite_asserts = lambda tree, *a, **k: tree.body.clear()\n"
        "run.check_interactive_exception = lambda *a: False\n" + WRONG
    ),
    "AssertionError replaced": Forgery(
        "import builtins, pytest\nbuiltins.AssertionError = pytest.skip.Exception\n" + WRONG
    ),
    "report replaced": Forgery(
        "import _pytest.reports as r\nreal = r.TestReport.from_item_and_call.__func__\n"
        "def fake(cls, item, call):\n    call.excinfo = None\n    return real(cls, item, call)\n"
        "r.TestReport.from_item_and_call = classmethod(fake)\n" + WRONG
    ),
    "pytest.raises replaced": Forgery(
        "import contextlib, pytest\npytest.raises = lambda *a, **k: contextlib.nullcontext()\n" + WRONG, test=RAISES
    ),
    "assertEqual replaced": Forgery(
        "import unittest\nunittest.TestCase.assertEqual = unittest.TestCase.assertIn = lambda *a: None\n" + WRONG,
        test=UNITTEST,
    ),
    "a plug-in registered": Forgery(
        "import gc, pytest\nclass Plugin:\n    @pytest.hookimpl(tryfirst=True)\n    def pytest_pyfunc_call(self, pyfuncitem):\n"
        "        return 'sentinel' not in pyfuncitem.name or None\n"
        "def f(x):\n    for c in gc.get_objects():\n        if isinstance(c, pytest.Config):\n"
        "            c.pluginmanager.register(Plugin())\n    return x if x == 1 else 0\n"
    ),
    "comparison watch replaced": Forgery(
        "import sys\nclass Always:\n    def __eq__(self, other):\n        return True\n"
        "def f(x):\n    space = sys._getframe(1).f_globals\n"
        "    space['@left'] = space['@right'] = lambda value, *more: value\n    return x if x == 1 else Always()\n"
    ),
    "__eq__ always true": Forgery(ALWAYS + "def f(x):\n    return Always()\n"),
    "__eq__ always true, by exec": Forgery(
        "space = {}\nexec(" + repr(ALWAYS) + ", space)\ndef f(x):\n    return space['Always']()\n"
    ),
    "__eq__ always true, in unittest": Forgery(ALWAYS + "def f(x):\n    return Always()\n", test=UNITTEST),
    "__eq__ by a callable object": Forgery(
        "class Yes:\n    def __call__(self, *a):\n        return True\nclass Always:\n    __eq__ = Yes()\n"
        "    __hash__ = None\ndef f(x):\n    return Always()\n"
    ),
    "subclassed int": Forgery(
        "class I(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\ndef f(x):\n    return I(0)\n"
    ),
    "such an int in a list": Forgery(
        "class I(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
        "def f(x):\n    return [I(0)]\n",
        test="from m import f\n\n\ndef test_one():\n    assert f(1) == [1]\n",
    ),
    "difference of its own": Forgery(
        "class D:\n    def __sub__(self, o):\n        return self\n    def __abs__(self):\n        return self\n"
        "    def __lt__(self, o):\n        return True\ndef f(x):\n    return D()\n",
        test="from m import f\n\n\ndef test_one():\n    assert abs(f(1) - 1) < 1e-9\n",
    ),
    "equal to approx": Forgery(
        ALWAYS + "def f(x):\n    return Always()\n",
        test="import pytest\nfrom m import f\n\n\ndef test_one():\n    assert f(1) == pytest.approx(1)\n",
    ),
    "skip in a call": Forgery("import pytest\ndef f(x):\n    return x if x == 1 else pytest.skip('no')\n"),
    "xfail in a call": Forgery("import pytest\ndef f(x):\n    return x if x == 1 else pytest.xfail('no')\n"),
    "module skipped at import": Forgery(
        "import sys, pytest\nif 'test_m' in sys.modules:\n    pytest.skip('no', allow_module_level=True)\n" + WRONG,
        {"test_n.py": "def test_pass(): pass\n"},
    ),
    "SkipTest in a call": Forgery(
        "import unittest\ndef f(x):\n    if x == 2:\n        raise unittest.SkipTest\n    return x\n"
    ),
    "results written at exit": Forgery(
        FORGED_LINES + "import atexit, os\n@atexit.register\ndef late():\n    for fd in range(3, 64):\n        try:\n"
        "            os.write(fd, TEXT)\n        except OSError:\n            pass\n" + WRONG
    ),
    "results written to every descriptor": Forgery(
        FORGED_LINES + "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, TEXT)\n    except OSError:\n"
        "        pass\nos._exit(0)\n"
    ),
    "results written through /proc/self/fd": Forgery(
        FORGED_LINES
        + "import os\nfor fd in range(3, 64):\n    try:\n        with open(f'/proc/self/fd/{fd}', 'wb') as file:\n"
        "            file.write(TEXT)\n    except OSError:\n        pass\nos._exit(0)\n"
    ),
    "passes the second time": Forgery(
        "import os, pathlib\nMARKS = [pathlib.Path(p) / 'seen' for p in ('.', os.environ['HOME'], '/tmp', '/dev/shm', '/var/tmp')]\n"
        "def f(x):\n    seen = any(m.exists() for m in MARKS)\n    for m in MARKS:\n        try:\n            m.touch()\n"
        "        except OSError:\n            pass\n    return x if seen and x != 1 else 0\n",
        grades=3,
    ),
    "a fork that goes on": Forgery("import os\ndef f(x):\n    return x if os.fork() == 0 else 0\n"),
    "a thread that patches later": Forgery(
        "import threading, time, _pytest.python\ndef late():\n    time.sleep(0.05)\n"
        "    _pytest.python.Function.runtest = lambda self: None\nthreading.Thread(target=late, daemon=True).start()\n"
        "def f(x):\n    import time\n    time.sleep(0.15)\n    return x if x == 1 else 0\n"
    ),
    "collected items dropped": Forgery(
        "import gc, pytest\ndef f(x):\n    for s in gc.get_objects():\n        if isinstance(s, pytest.Session):\n"
        "            del s.items[1:2]\n    return x if x == 1 else 0\n"
    ),
}


def forged(forgery: Forgery, layer: Isolation) -> Grade:
    """The last grade of a forgery; the workspace is the same for each."""
    job = TestJob(tests=("test_m.py",), pristine={"test_m.py": forgery.test}, test_seconds=5.0)
    files = {"m.py": forgery.program, "test_m.py": forgery.test, **forgery.files}
    with Workspace({name: text for name, text in files.items() if text}) as workspace:
        return [grade_now(workspace.root, job, layer) for _ in range(forgery.grades)][-1]


@dataclass
class World:
    """What an attack could reach: files, listeners, a process of the same user; and what became of them."""

    folder: Path
    home_secret: Path
    unix: str
    abstract: str
    tcp: int
    udp: int
    victim: int
    sockets: list[socket.socket]

    def touched(self) -> list[str]:
        """Effects outside the sandbox."""
        found = []
        for listener in self.sockets:
            try:
                data = listener.recv(64) if listener.type == socket.SOCK_DGRAM else listener.accept()
                found.append(f"{listener.family.name} {listener.type.name}: {str(data)[:20]}")
            except (BlockingIOError, OSError):
                continue
        if (self.folder / "secret").read_text() != "secret" or len(list(self.folder.iterdir())) != 2:
            found.append("files outside changed")
        if not Path(f"/proc/{self.victim}/cmdline").exists() or os.waitpid(self.victim, os.WNOHANG)[0]:
            found.append("the neighbour died")
        return found


@contextlib.contextmanager
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attack-")))
        folder.chmod(0o777)
        (folder / "secret").write_text("secret")
        (folder / "secret").chmod(0o666)
        home = Path.home() if os.access(Path.home(), os.W_OK) else folder
        secret = home / f".attack-{os.getpid()}"
        if home != folder:
            secret.write_text("secret")
            stack.callback(secret.unlink)
        else:
            secret = folder / "secret"
        kinds = [
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0attack-{os.getpid()}"),
        ]
        sockets = [stack.enter_context(socket.socket(family, kind)) for family, kind, _ in kinds]
        for listener, (_, kind, address) in zip(sockets, kinds, strict=True):
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
        (folder / "socket").chmod(0o777)
        victim = subprocess.Popen(["sleep", "600"])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        yield World(
            folder,
            secret,
            str(folder / "socket"),
            f"attack-{os.getpid()}",
            sockets[0].getsockname()[1],
            sockets[1].getsockname()[1],
            victim.pid,
            sockets,
        )


def leftovers() -> list[int]:
    """Processes of sandboxes that are alive now and still are seconds later: those of other runs end by themselves."""
    ends, found = time.monotonic() + 3, sandboxed()
    while found and time.monotonic() < ends:
        time.sleep(0.05)
        found = [pid for pid in found if pid in sandboxed()]
    return found


def sandboxed() -> list[int]:
    """Processes of sandboxes that are alive: those below this process, and those whose beginner is gone."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _in_sandbox(entry.name)]
    return [pid for pid in found if not _of_others(pid)]


def _in_sandbox(pid: object) -> bool:
    with contextlib.suppress(OSError):
        return b"sandbox/child/main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _of_others(pid: int) -> bool:
    """Whether the first process above that is none of a sandbox lives, and neither is this one nor below it."""
    above = []
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        above.append(pid)
    beginner = next((one for one in above if not _in_sandbox(one)), 0)
    return os.getpid() not in above and beginner > 1


class Pulse:
    """Whether the machine kept answering: the longest gap of a loop that sleeps, and how far free memory sank."""

    def __enter__(self) -> Pulse:
        self.gap, self.start, self.lowest = 0.0, _available(), _available()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ends.wait(0.02):
            now = time.monotonic()
            self.gap, last = max(self.gap, now - last), now
            self.lowest = min(self.lowest, _available())

    def taken(self) -> int:
        return self.start - self.lowest


def _available() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Attack:
    """The body of `f(x)`, which raises what it got away with; and the outcomes that mean that a limit held."""

    body: str
    outcomes: tuple[str, ...] = ("passed",)


def _tried(*attempts: str) -> str:
    """Each attempt must raise OSError (or end in nothing); what succeeds is told."""
    lines = []
    for number, attempt in enumerate(attempts, 1):
        lines += ["try:", *(f"    {line}" for line in attempt.splitlines())]
        lines += ["except (OSError, ValueError):", "    pass", "else:", f"    raise RuntimeError('ESCAPED {number}')"]
    return "\n".join([*lines, "return x"])


ATTACKS = {
    "infinite loop": Attack("while True:\n    pass", ("timed_out",)),
    "fork bomb": Attack(
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass", ("timed_out", "crashed")
    ),
    "double fork and setsid": Attack(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n    os._exit(0)\nreturn x"
    ),
    "8 GB in one process": Attack("data = b'x' * (8 << 30)\nreturn x", ("out_of_memory", "crashed")),
    "8 GB in ten processes": Attack(
        "pids = []\nfor _ in range(10):\n    pid = os.fork()\n    if pid == 0:\n        data = []\n"
        "        for _ in range(100):\n            data.append(b'x' * (8 << 20))\n        time.sleep(20)\n        os._exit(0)\n"
        "    pids.append(pid)\nfor pid in pids:\n    os.waitpid(pid, 0)\nreturn x",
        ("out_of_memory", "timed_out"),
    ),
    "endless print": Attack("while True:\n    print('x' * 10**6)\n    os.write(2, b'x' * 10**6)", ("timed_out",)),
    "10 GB of files": Attack(
        "for where in ('.', os.environ['HOME'], '/tmp', '/dev/shm', '/var/tmp'):\n    try:\n        for n in range(160):\n"
        "            with open(f'{where}/big{n}', 'wb') as file:\n                for _ in range(60):\n"
        "                    file.write(b'x' * 2**20)\n    except OSError:\n        continue\n"
        "    raise RuntimeError('ESCAPED')\nreturn x",
        ("passed", "crashed", "out_of_memory", "timed_out"),
    ),
    "a million files": Attack(
        "for where in ('.', '/dev/shm', os.environ['HOME'], '/tmp'):\n    try:\n        for n in range(10**6):\n"
        "            os.close(os.open(f'{where}/f{n}', os.O_CREAT | os.O_WRONLY))\n    except OSError:\n        continue\n"
        "    raise RuntimeError('ESCAPED')\nreturn x",
        ("passed", "crashed", "timed_out"),
    ),
    "home folder": Attack(_tried("open({home_secret!r}).read()", "open({secret!r}).read()", "os.listdir({folder!r})")),
    "environment": Attack(
        "seen = dict(os.environ)\ntry:\n    names = os.listdir('/proc')\nexcept OSError:\n    names = map(str, range(10**5))\n"
        "for name in names:\n    try:\n        seen[name] = open(f'/proc/{name}/environ').read()\n"
        "    except OSError:\n        pass\n"
        "if 'attack-key' in str(seen):\n    raise RuntimeError('ESCAPED')\nreturn x"
    ),
    "TCP": Attack(_tried("socket.create_connection(('127.0.0.1', {tcp}), timeout=1).send(b'x')")),
    "UDP": Attack(
        _tried("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))\nraise OSError")
    ),
    "unix socket": Attack(_tried("socket.socket(socket.AF_UNIX).connect({unix!r})")),
    "abstract socket": Attack(_tried("socket.socket(socket.AF_UNIX).connect(chr(0) + {abstract!r})")),
    "DNS": Attack(_tried("socket.getaddrinfo('example.com', 80)")),
    "write outside": Attack(
        _tried("open({folder!r} + '/new', 'w')", "open({secret!r}, 'a').write('x')", "os.mkdir({folder!r} + '/d')")
    ),
    "symlink": Attack(
        _tried(
            "os.symlink({folder!r}, 'link')\nopen('link/secret').read()",
            "os.symlink({secret!r}, 'secret')\nopen('secret', 'w').write('x')",
        )
    ),
    "hard link": Attack(_tried("os.link({secret!r}, 'hard')\nopen('hard', 'w').write('x')")),
    "signal to the parent": Attack(
        "for pid in (os.getppid(), {victim}, *range(os.getpid() - 5, os.getpid())):\n    for number in (15, 9):\n"
        "        try:\n            if pid > 0 and pid != os.getpid():\n                os.kill(pid, number)\n"
        "        except OSError:\n            pass\nreturn x"
    ),
    "stdout held": Attack("if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)\nreturn x"),
    "ptrace": Attack(
        "import ctypes\nlibc = ctypes.CDLL(None)\nif libc.ptrace(16, {victim}, 0, 0) == 0:\n    raise RuntimeError('ESCAPED')\n"
        + _tried("open('/proc/{victim}/mem', 'rb').read(1)", "open('/proc/{victim}/cmdline').read()")
    ),
}


def _place(places: Mapping[str, object], match: re.Match[str]) -> str:
    if match[1] not in places:
        return match[0]
    return repr(places[match[1]]) if match[2] else str(places[match[1]])


HEAD = "import os, socket, time\n\n\ndef f(x):\n"
BOUNDS = Bounds(wall_seconds=20.0)


@dataclass(frozen=True)
class Finding:
    """What came of an attack; `why` is empty where the sandbox held."""

    why: str
    outcome: str
    seconds: float


def attacked(name: str, layer: Isolation) -> Finding:
    """Run an attack in a test, and look at its effects."""
    attack = ATTACKS[name]
    os.environ["OPENAI_API_KEY"] = "attack-key"
    with world() as around, Pulse() as pulse:
        places = {
            key: getattr(around, key) for key in ("home_secret", "folder", "unix", "abstract", "tcp", "udp", "victim")
        }
        places = {key: str(value) if isinstance(value, Path) else value for key, value in places.items()}
        places["secret"] = str(around.folder / "secret")
        body = re.sub(r"\{(\w+)(!r)?\}", lambda m: _place(places, m), attack.body)
        program = HEAD + "\n".join(f"    {line}" for line in body.splitlines()) + "\n"
        test = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n"
        job = TestJob(tests=("test_m.py",), pristine={"test_m.py": test}, test_seconds=1.0, bounds=BOUNDS)
        disk, started = shutil.disk_usage("/tmp").free, time.monotonic()
        with Workspace({"m.py": program, "test_m.py": test}) as workspace:
            result = grade_now(workspace.root, job, layer)
        seconds = time.monotonic() - started
        faults = around.touched()
    if result.outcome not in attack.outcomes:
        faults.append(f"{result.outcome}: {result.output.splitlines()[-1]}")
    left = leftovers()
    faults += [f"{len(left)} processes left"] if left else []
    faults += [f"the machine stood still for {pulse.gap:.1f} s"] if pulse.gap > 3 else []
    faults += [f"{pulse.taken() / 2**30:.1f} GiB of memory taken"] if pulse.taken() > 3 * 2**30 else []
    faults += ["the disk filled"] if disk - shutil.disk_usage("/tmp").free > 2**30 else []
    faults += [f"took {seconds:.0f} s"] if seconds > BOUNDS.wall_seconds + 10 else []
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return Finding("; ".join(faults), result.outcome, seconds)
