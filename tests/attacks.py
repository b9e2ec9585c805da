"""Programs that cheat their tests or break out of the sandbox, and how to see whether they did.

`test_forgery.py` and `test_containment.py` run them; `benchmarks/containment.py` prints the table of them all.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from repo_agent.sandbox import warm
from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.supervise import PATIENCE
from repo_agent.sandbox.watch import Bounds
from repo_agent.sandbox.workspace import Workspace


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
    states: dict[Path, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = {
            path: _state(path) for path in (self.folder / "secret", self.home_secret, self.home_secret.parent)
        }
        self.priority = (
            os.getpriority(os.PRIO_PROCESS, self.victim),
            resource.prlimit(self.victim, resource.RLIMIT_NOFILE),
        )

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
        found += [
            f"{path.name}: mode, owner, time or attributes changed"
            for path, state in self.states.items()
            if _state(path) != state
        ]
        if self.priority != (
            os.getpriority(os.PRIO_PROCESS, self.victim),
            resource.prlimit(self.victim, resource.RLIMIT_NOFILE),
        ):
            found.append("the neighbour's limits or priority changed")
        if b"0x00005eed" in subprocess.run(["ipcs"], capture_output=True, check=False).stdout:
            found.append("shared memory is left")
        if not Path(f"/proc/{self.victim}/cmdline").exists() or os.waitpid(self.victim, os.WNOHANG)[0]:
            found.append("the neighbour died")
        return found


def _state(path: Path) -> tuple[int, ...]:
    """What metadata says: of a folder without its time, which others change."""
    state = path.stat()
    return (state.st_mode, state.st_uid, len(os.listxattr(path)), 0 if path.is_dir() else state.st_mtime_ns)


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
        victim = subprocess.Popen(["sleep", "infinity"])
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
    """Processes of sandboxes that are alive now and half a minute later: those of other runs end by themselves."""
    ends, found = time.monotonic() + 30, sandboxed()
    while found and time.monotonic() < ends:
        time.sleep(0.05)
        found = [pid for pid in found if pid in sandboxed()]
    return found


def sandboxed() -> list[int]:
    """Processes of sandboxes that are alive: those below this process, and those whose beginner is gone.

    The servers of this process, which wait for the next run, are none of them.
    """
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _in_sandbox(entry.name)]
    return [pid for pid in found if not _of_others(pid) and pid not in servers()]


def servers() -> list[int]:
    """The processes of each server: bwrap's two, and the one that forks."""
    found = []
    for server in list(warm._SERVERS.values()):
        outer = server.process.pid
        found += [outer, *(inner := children(outer)), *(pid for one in inner for pid in children(one))]
    return found


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


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
    seconds: float = 6.0
    """Limit of the test: so much that another limit is reached first, and the test's end, on a busy machine too."""


def _tried(*attempts: str) -> str:
    """Each attempt must raise OSError (or end in nothing); what succeeds is told."""
    lines = []
    for number, attempt in enumerate(attempts, 1):
        lines += ["try:", *(f"    {line}" for line in attempt.splitlines())]
        lines += ["except (OSError, ValueError):", "    pass", "else:", f"    raise RuntimeError('ESCAPED {number}')"]
    return "\n".join([*lines, "return x"])


ATTACKS = {
    "infinite loop": Attack("while True:\n    pass", ("timed_out",), seconds=1.0),
    "fork bomb": Attack(
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        ("timed_out", "crashed"),
        seconds=1.0,
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
    "endless print": Attack(
        "while True:\n    print('x' * 10**6)\n    os.write(2, b'x' * 10**6)", ("timed_out",), seconds=1.0
    ),
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

PLACES = (
    "for p in ({secret!r}, {folder!r}, {home_secret!r}, os.path.dirname({home_secret!r}), os.__file__, sys.prefix):\n"
)
ATTACKS |= {
    "chmod, chown, utime, xattr by name": Attack(
        "import ctypes, sys\nlibc = ctypes.CDLL(None)\nlink = 'link'\n"
        + PLACES
        + "    os.path.lexists(link) and os.remove(link)\n"
        "    os.symlink(p, link)\n    relative = os.path.relpath(p)\n    for q in (p, link, relative):\n"
        "        b = os.fsencode(q)\n        for do in (\n"
        "            lambda: os.chmod(q, 0o4777), lambda: os.chmod(q, 0), lambda: os.utime(q, (1, 1)), lambda: os.utime(q),\n"
        "            lambda: os.chown(q, os.getuid(), os.getgid()), lambda: os.setxattr(q, 'user.x', b'1'),\n"
        "            lambda: os.lchown(q, os.getuid(), -1), lambda: os.utime(q, (1, 1), follow_symlinks=False),\n"
        "            lambda: libc.utimes(b, None), lambda: libc.utime(b, None), lambda: libc.futimesat(-100, b, None),\n"
        "            lambda: libc.syscall(452, -100, b, 0, 0), lambda: libc.syscall(463, -100, b, 0, b'user.x', b'1', 16),\n"
        "        ):\n            try:\n                do()\n            except (OSError, AttributeError):\n                pass\nreturn x"
    ),
    "chmod, chown, utime, xattr by descriptor": Attack(
        "import ctypes, fcntl, sys\nlibc = ctypes.CDLL(None)\n"
        + PLACES
        + "    for flags in (os.O_RDONLY, os.O_PATH):\n        try:\n"
        "            fd = os.open(p, flags)\n        except OSError:\n            continue\n"
        "        name = f'/proc/self/fd/{fd}'\n        for do in (\n"
        "            lambda: os.fchmod(fd, 0), lambda: os.chmod(name, 0), lambda: os.utime(fd, (1, 1)), lambda: os.utime(name, (1, 1)),\n"
        "            lambda: os.fchown(fd, os.getuid(), -1), lambda: os.setxattr(fd, 'user.x', b'1'), lambda: os.setxattr(name, 'user.x', b'1'),\n"
        "            lambda: fcntl.ioctl(fd, 0x40086602, b'@' + b'\\0' * 7), lambda: libc.syscall(452, fd, b'', 0, 0x1000),\n"
        "            lambda: os.chmod('.', 0, dir_fd=fd), lambda: os.chmod('secret', 0, dir_fd=fd), lambda: os.utime('secret', (1, 1), dir_fd=fd),\n"
        "        ):\n            try:\n                do()\n            except (OSError, NotImplementedError):\n                pass\nreturn x"
    ),
    "metadata of a name that is exchanged": Attack(
        "import threading\nopen('mine', 'w').close()\nends = time.monotonic() + 1.5\ndef swap():\n    n = 0\n    while time.monotonic() < ends:\n"
        "        n += 1\n        os.symlink({secret!r} if n % 2 else 'mine', f'l{n}')\n        os.rename(f'l{n}', 'target')\n"
        "os.symlink('mine', 'target')\nthreading.Thread(target=swap).start()\nwhile time.monotonic() < ends:\n    try:\n"
        "        os.chmod('target', 0o4711)\n        os.utime('target', (1, 1))\n    except OSError:\n        pass\nreturn x",
        ("passed", "timed_out"),
    ),
    "limits and priority of others": Attack(
        "import ctypes, resource\nlibc = ctypes.CDLL(None)\nfor do in (\n    lambda: resource.prlimit({victim}, resource.RLIMIT_NOFILE, (3, 3)),\n"
        "    lambda: os.setpriority(os.PRIO_PROCESS, {victim}, 19), lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19),\n"
        "    lambda: os.sched_setaffinity({victim}, {0}), lambda: libc.syscall(251, 1, {victim}, 3 << 13),\n"
        "):\n    try:\n        do()\n    except OSError:\n        pass\nreturn x"
    ),
    "2.1 GB of shared mappings": Attack(
        "import mmap\npids = []\nfor _ in range(3):\n    pid = os.fork()\n    if pid == 0:\n        data = mmap.mmap(-1, 700 << 20)\n"
        "        for at in range(0, 700 << 20, 1 << 20):\n            data[at : at + (1 << 20)] = b'x' * (1 << 20)\n        time.sleep(8)\n"
        "        os._exit(0)\n    pids.append(pid)\nfor pid in pids:\n    os.waitpid(pid, 0)\nraise RuntimeError('ESCAPED')",
        ("out_of_memory",),
        seconds=20.0,
    ),
    "memory of descriptors": Attack(
        "import ctypes\nlibc = ctypes.CDLL(None)\ndata, held = b'x' * (48 << 20), 0\nfor number in (319, 447):\n    for n in range(34):\n"
        "        fd = libc.syscall(number, b'x' if number == 319 else 0, 0)\n        if fd >= 0:\n            held += os.write(fd, data)\n"
        "if held:\n    raise RuntimeError('ESCAPED')\nreturn x"
    ),
    "full sockets": Attack(
        "import resource, fcntl\npids = []\nfor _ in range(60):\n    pid = os.fork()\n    if pid == 0:\n        kept = []\n        try:\n"
        "            while True:\n                a, b = socket.socketpair()\n                kept += [a, b]\n                for s in (a, b):\n"
        "                    s.setblocking(False)\n                    try:\n                        while True:\n"
        "                            s.send(b'x' * 65536)\n                    except BlockingIOError:\n                        pass\n"
        "        except OSError:\n            pass\n        time.sleep(8)\n        os._exit(0)\n    pids.append(pid)\n"
        "for pid in pids:\n    os.waitpid(pid, 0)\nraise RuntimeError('ESCAPED')",
        ("out_of_memory", "timed_out"),
    ),
    "System V and message queues": Attack(
        "import ctypes\nlibc = ctypes.CDLL(None)\nfound = [libc.shmget(0x5eed, 4096, 0o1666), libc.semget(0x5eed, 1, 0o1666), libc.msgget(0x5eed, 0o1666)]\n"
        "if max(found) >= 0 or libc.syscall(240, b'q', 0o102, 0o666, 0) >= 0:\n    raise RuntimeError('ESCAPED')\nreturn x"
    ),
    "AF_VSOCK and its like": Attack(
        "for family in (40, 17, 38, 44, 31, 29, 21):\n    for kind in (1, 2, 3, 5):\n        try:\n            socket.socket(family, kind)\n"
        "        except OSError:\n            continue\n        raise RuntimeError(f'ESCAPED {family}')\nreturn x"
    ),
    "600 MB without a name": Attack(
        "held = []\ntry:\n    for n in range(12):\n        file = open(f'big{n}', 'wb+')\n        os.remove(f'big{n}')\n        held.append(file)\n"
        "        for _ in range(50):\n            file.write(b'x' * 2**20)\n        file.flush()\nexcept OSError:\n    return x\ntime.sleep(4)\nraise RuntimeError('ESCAPED')",
        ("passed", "crashed"),
    ),
    "600 MB below a long path": Attack(
        "start = os.open('.', os.O_RDONLY)\ntry:\n    for n in range(20):\n        os.mkdir('d' * 250)\n        os.chdir('d' * 250)\n"
        "    for n in range(12):\n        with open(f'big{n}', 'wb') as file:\n            for _ in range(50):\n                file.write(b'x' * 2**20)\n"
        "except OSError:\n    return x\nfinally:\n    os.fchdir(start)\ntime.sleep(4)\nraise RuntimeError('ESCAPED')",
        ("passed", "crashed"),
    ),
    "3000 folders inside each other": Attack(
        "start = os.open('.', os.O_RDONLY)\nfor n in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nos.mkdir('shut')\nos.chmod('shut', 0)\n"
        "os.fchdir(start)\nreturn x",
        ("passed", "crashed"),
    ),
}


LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
ATTACKS |= {
    "room beyond the end of files": Attack(
        LIBC
        + "n = 0\nfor i in range(8):\n    fd = os.open(f'big{i}', os.O_RDWR | os.O_CREAT)\n    n += libc.fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(200 << 20)) == 0\ntime.sleep(3)\nif n * 200 > 300:\n    raise RuntimeError('ESCAPED')\nreturn x",
        ("passed", "crashed"),
    ),
    "600 MB in descriptors on their way": Attack(
        "import array\ntry:\n    for n in range(12):\n        a, b = socket.socketpair()\n        globals().setdefault('kept', []).extend([a, b])\n        file = open(f'big{n}', 'wb+', buffering=0)\n        os.remove(f'big{n}')\n        socket.send_fds(a, [b'x'], [file.fileno()])\n        for _ in range(50):\n            file.write(b'x' * 2**20)\n        file.close()\nexcept OSError:\n    return x\ntime.sleep(4)\nraise RuntimeError('ESCAPED')",
        ("passed", "crashed"),
    ),
    "600 MB of a process that hides": Attack(
        LIBC
        + "libc.prctl(4, 0, 0, 0, 0)\nheld = []\ntry:\n    for n in range(12):\n        file = open(f'big{n}', 'wb+')\n        os.remove(f'big{n}')\n        held.append(file)\n        for _ in range(50):\n            file.write(b'x' * 2**20)\n        file.flush()\nexcept OSError:\n    return x\ntime.sleep(4)\nraise RuntimeError('ESCAPED')",
        ("passed", "crashed"),
    ),
    "600 MB of a program that nobody may read": Attack(
        "import shutil, subprocess\nshutil.copy('/usr/bin/sleep', 'mine')\nos.chmod('mine', 0o111)\nheld = []\ntry:\n    for n in range(12):\n        file = open(f'big{n}', 'wb+')\n        os.remove(f'big{n}')\n        for _ in range(50):\n            file.write(b'x' * 2**20)\n        file.flush()\n        os.set_inheritable(file.fileno(), True)\n        held.append(subprocess.Popen(['./mine', '8'], pass_fds=[file.fileno()]))\n        file.close()\nexcept OSError:\n    return x\ntime.sleep(4)\nraise RuntimeError('ESCAPED')",
        ("passed", "crashed"),
    ),
    "600 MB of mapped sparse files": Attack(
        "import mmap\nheld = []\ntry:\n    for n in range(12):\n        file = open(f'big{n}', 'wb+')\n        file.truncate(60 << 20)\n        data = mmap.mmap(file.fileno(), 60 << 20)\n        os.remove(f'big{n}')\n        file.close()\n        for at in range(0, 50 << 20, 4096):\n            data[at] = 1\n        data.flush()\n        held.append(data)\nexcept (OSError, ValueError):\n    return x\ntime.sleep(4)\nraise RuntimeError('ESCAPED')",
        ("passed", "crashed", "out_of_memory", "timed_out"),
    ),
    "2.1 GB of processes that hide": Attack(
        LIBC
        + "libc.prctl(4, 0, 0, 0, 0)\nimport mmap\npids = []\nfor _ in range(3):\n    pid = os.fork()\n    if pid == 0:\n        data = mmap.mmap(-1, 700 << 20)\n        for at in range(0, 700 << 20, 1 << 20):\n            data[at : at + (1 << 20)] = b'x' * (1 << 20)\n        time.sleep(8)\n        os._exit(0)\n    pids.append(pid)\nfor pid in pids:\n    os.waitpid(pid, 0)\nraise RuntimeError('ESCAPED')",
        ("out_of_memory", "crashed"),
        seconds=20.0,
    ),
    "huge pages that pipes hold": Attack(
        LIBC
        + "import mmap\nclass IO(ctypes.Structure):\n    _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]\nlibc.mmap.restype = ctypes.c_void_p\nlibc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]\nlibc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]\nlibc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]\nkept, held, size = [], 0, 64 << 20\nfor n in range(40):\n    p = libc.mmap(None, size, 3, 0x22, -1, 0)\n    if p in (None, 2**64 - 1):\n        break\n    libc.madvise(p, size, 14)\n    for at in range(0, size, 2 << 20):\n        q = (p + at + (2 << 20) - 1) // (2 << 20) * (2 << 20)\n        if q + 4096 > p + size:\n            continue\n        ctypes.memset(q, 1, 2 << 20 if q + (2 << 20) <= p + size else 4096)\n        if not kept or len(kept[-1][2]) >= 14:\n            r, w = os.pipe()\n            os.set_blocking(w, False)\n            kept.append((r, w, []))\n        io = IO(q, 4096)\n        if libc.vmsplice(kept[-1][1], ctypes.byref(io), 1, 0) > 0:\n            kept[-1][2].append(1)\n            held += 1\n        else:\n            return x\n    libc.munmap(p, size)\ntime.sleep(1)\nif held:\n    raise RuntimeError(f'ESCAPED {held * 2} MB')\nreturn x",
        ("passed", "out_of_memory"),
    ),
    "timers, eventfds and queued signals": Attack(
        LIBC
        + "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {40})\nn = 0\nbuffer = ctypes.create_string_buffer(8)\nevent = ctypes.create_string_buffer(64)\nwhile n < 10**6 and libc.syscall(222, 1, None, buffer) == 0:\n    n += 1\nm = 0\nwhile m < 10**6 and libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(0)) == 0:\n    m += 1\ntry:\n    while True:\n        os.eventfd(0)\nexcept OSError:\n    pass\nif n > 300000 or m > 300000:\n    raise RuntimeError(f'ESCAPED {n} {m}')\nreturn x",
        ("passed", "timed_out", "crashed"),
    ),
    "signals by the owner of a pipe": Attack(
        "import fcntl, signal\nfor target in ({victim}, os.getppid(), -os.getppid()):\n    try:\n        r, w = os.pipe()\n        fcntl.fcntl(r, fcntl.F_SETOWN, target)\n        fcntl.fcntl(r, 10, 9)\n        fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\n        os.write(w, b'x')\n    except OSError:\n        pass\na, b = socket.socketpair()\ntry:\n    fcntl.fcntl(a, fcntl.F_SETOWN, {victim})\n    fcntl.fcntl(a, 10, 9)\n    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)\n    b.send(b'x')\nexcept OSError:\n    pass\ntime.sleep(0.2)\nreturn x",
        ("passed", "crashed"),
    ),
    "signals by other calls": Attack(
        LIBC
        + "import signal\nfor do in (\n    lambda: libc.syscall(234, {victim}, {victim}, 9), lambda: libc.syscall(200, {victim}, 9),\n    lambda: signal.pidfd_send_signal(os.pidfd_open({victim}), 9), lambda: os.killpg(os.getpgid({victim}), 9),\n    lambda: libc.syscall(129, {victim}, 9, ctypes.create_string_buffer(b'\\x09' + b'\\0' * 3 + b'\\0' * 4 + b'\\xff' * 4, 128)),\n):\n    try:\n        do()\n    except OSError:\n        pass\ntime.sleep(0.2)\nreturn x",
        ("passed", "crashed"),
    ),
    "a signal to every process": Attack(
        "import signal\nsignal.signal(15, signal.SIG_IGN)\ntry:\n    os.kill(-1, 15)\n    os.kill(-1, 9)\nexcept OSError:\n    pass\ntime.sleep(0.2)\nreturn x",
        ("passed", "crashed"),
    ),
    "limits raised": Attack(
        "import resource\nfor name in ('AS', 'NOFILE', 'FSIZE', 'NPROC', 'CPU', 'CORE', 'NICE', 'RTPRIO', 'MEMLOCK'):\n    kind = getattr(resource, 'RLIMIT_' + name)\n    try:\n        resource.setrlimit(kind, (2**40, 2**40))\n    except (OSError, ValueError):\n        pass\n    else:\n        if name not in ('MEMLOCK',):\n            raise RuntimeError('ESCAPED ' + name)\nfor do in (lambda: os.nice(-5), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(9)), lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(9))):\n    try:\n        do()\n    except OSError:\n        continue\n    raise RuntimeError('ESCAPED priority')\nreturn x"
    ),
    "a watch on folders": Attack(
        LIBC
        + "fd = libc.inotify_init1(0o4000)\nfor p in ({folder!r}, {secret!r}):\n    if libc.inotify_add_watch(fd, os.fsencode(p), 0xfff) >= 0:\n        raise RuntimeError('ESCAPED ' + p)\nreturn x"
    ),
    "truncate, rename, exchange, link": Attack(
        LIBC
        + "open('own', 'w').close()\nfor p in ({secret!r}, {home_secret!r}):\n    b = os.fsencode(p)\n    for do in (\n        lambda: os.truncate(p, 0), lambda: os.rename(p, 'x'), lambda: os.rename('own', p), lambda: libc.renameat2(-100, b'own', -100, b, 2),\n        lambda: os.replace('own', p + '2'), lambda: os.remove(p), lambda: os.link('own', p + '3'), lambda: os.symlink('own', p + '4'),\n        lambda: os.mkfifo(p + '5'), lambda: os.mknod(p + '6'), lambda: libc.linkat(-100, b, -100, b'y', 0x400), lambda: os.rmdir({folder!r}),\n        lambda: libc.syscall(425, 1, 0), lambda: libc.syscall(428, -100, b, 1), lambda: libc.syscall(303, -100, b, 0, 0, 0),\n        lambda: libc.syscall(468, -100, b, 0, 0, 0), lambda: libc.syscall(469, -100, b, ctypes.create_string_buffer(32), 32, 0), lambda: libc.creat(b, 0o600),\n    ):\n        try:\n            do()\n        except (OSError, NotImplementedError):\n            pass\nreturn x"
    ),
    "a lease": Attack(
        "import fcntl, sys\nfor p in (os.__file__, '/usr/bin/env'):\n    with open(p) as file:\n        try:\n            fcntl.fcntl(file, 1024, fcntl.F_RDLCK)\n        except OSError:\n            continue\n        raise RuntimeError('ESCAPED lease ' + p)\nreturn x"
    ),
    "links that the clearing meets": Attack(
        "os.symlink({folder!r}, 'd')\nos.mkdir('e')\nos.symlink({secret!r}, 'e/s')\nos.symlink('..', 'e/up')\nos.mkfifo('e/fifo')\nos.chmod('e', 0)\nos.mkdir('f')\nos.chmod('f', 0o1000)\nreturn x"
    ),
    "attributes read": Attack(_tried("os.listxattr({secret!r})", "os.getxattr({secret!r}, 'user.x')")),
    "chmod by 32-bit calls": Attack(
        LIBC
        + "import mmap\nlibc.syscall.restype = ctypes.c_long\npid = os.fork()\nif pid == 0:\n    libc.syscall(0x40000000 + 90, {secret!r}.encode(), 0)\n    os._exit(0)\nos.waitpid(pid, 0)\npid = os.fork()\nif pid == 0:\n    p = mmap.mmap(-1, 4096, prot=7, flags=0x62)\n    path = ctypes.create_string_buffer(0)\n    p.write(b'\\xb8\\x0f\\0\\0\\0\\xb9\\0\\0\\0\\0\\xbb' + b'\\0\\x08\\0\\0' + b'\\xcd\\x80\\xc3')\n    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(p)))()\n    os._exit(0)\nos.waitpid(pid, 0)\nreturn x"
    ),
}


def _place(places: Mapping[str, object], match: re.Match[str]) -> str:
    if match[1] not in places:
        return match[0]
    return repr(places[match[1]]) if match[2] else str(places[match[1]])


HEAD = "import os, socket, sys, time\n\n\ndef f(x):\n"
BOUNDS = Bounds(wall_seconds=120.0)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of one's own for what the grader makes in the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@dataclass(frozen=True)
class Finding:
    """What came of an attack; `why` is empty where the sandbox held."""

    why: str
    outcome: str
    seconds: float


def attacked(name: str, layer: Isolation) -> Finding:
    """Run an attack in a test, and look at its effects.

    Where only the machine as a whole was found worse, another program may have done that: it counts if it is so again.
    """
    found, of_machine = _attacked(name, layer)
    if of_machine and not found.why:
        found, of_machine = _attacked(name, layer)
    return replace(found, why="; ".join([*([found.why] if found.why else []), *of_machine]))


def _attacked(name: str, layer: Isolation) -> tuple[Finding, list[str]]:
    """What was found of the run, and of the machine."""
    attack = ATTACKS[name]
    os.environ["OPENAI_API_KEY"] = "attack-key"
    with world() as around, Pulse() as pulse, scratch() as folder:
        places = {
            key: getattr(around, key) for key in ("home_secret", "folder", "unix", "abstract", "tcp", "udp", "victim")
        }
        places = {key: str(value) if isinstance(value, Path) else value for key, value in places.items()}
        places["secret"] = str(around.folder / "secret")
        body = re.sub(r"\{(\w+)(!r)?\}", lambda m: _place(places, m), attack.body)
        program = HEAD + "\n".join(f"    {line}" for line in body.splitlines()) + "\n"
        test = "from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n"
        job = TestJob(tests=("test_m.py",), pristine={"test_m.py": test}, test_seconds=attack.seconds, bounds=BOUNDS)
        disk, started = shutil.disk_usage("/tmp").free, time.monotonic()
        with Workspace({"m.py": program, "test_m.py": test}) as workspace:
            result = grade_now(workspace.root, job, layer)
        seconds = time.monotonic() - started
        faults = around.touched()
        faults += [f"{path} is left" for path in folder.iterdir()]
    if result.outcome not in attack.outcomes:
        faults.append(f"{result.outcome}: {result.output.splitlines()[-1]}")
    left = leftovers()
    faults += [f"{len(left)} processes left"] if left else []
    of_machine = [f"the machine stood still for {pulse.gap:.1f} s"] if pulse.gap > 20 else []
    of_machine += [f"{pulse.taken() / 2**30:.1f} GiB of memory taken"] if pulse.taken() > 3 * 2**30 else []
    of_machine += ["the disk filled"] if disk - shutil.disk_usage("/tmp").free > 2**30 else []
    faults += [f"took {seconds:.0f} s"] if seconds > PATIENCE * BOUNDS.wall_seconds + 30 else []
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return Finding("; ".join(faults), result.outcome, seconds), of_machine
