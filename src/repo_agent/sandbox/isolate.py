"""Which layer keeps tested code apart from this machine, and the command that starts a run inside it.

bubblewrap     A file system of its own, made by bwrap(1): system folders and the interpreter, read-only, and two small
               in-memory folders. User, process, network and other namespaces. Nothing else of the machine is there.
namespaces     Process, network and mount namespaces by unshare(1); files by Landlock; no sockets (seccomp).
subreaper      No namespaces: files and signals by Landlock, no sockets (seccomp); a process above the tests that
               every orphan falls to kills what they leave.
unsafe-local   Limits alone, on the user's word.

Started as root, each run has an unprivileged user id of its own. docs/threat-model.md says what holds on which layer.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.sandbox.child.metadata import CALLS
from repo_agent.sandbox.workspace import FIRST_UID, own_folder

CHILD = Path(__file__).with_name("child")
LAYERS = ("bubblewrap", "namespaces", "subreaper")
UNSAFE = "unsafe-local"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/ssl/openssl.cnf")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
INSIDE, SMALL, SMALL_BYTES = "/repo-agent", ("/tmp", "/dev/shm"), 16 * 2**20
"""In bubblewrap: the scratch folder, and two more folders in memory."""
ALONE = ("CAP_SETUID", "CAP_SETGID")
SERVING = (*ALONE, "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_KILL")
"""What a run started by root, and the server of many, can do until the run's user id is taken."""
DENIED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "unshare", "setns", "mount", "umount2"),
    *("move_mount", "fsopen", "fsmount", "fspick", "open_tree", "mount_setattr", "pivot_root", "chroot", "bpf"),
    *("perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "io_uring_setup", "open_by_handle_at"),
    *("name_to_handle_at", "fanotify_init", "kexec_load", "init_module", "finit_module", "delete_module", "quotactl"),
    *("memfd_create", "memfd_secret", "shmget", "semget", "msgget", "mq_open", "process_madvise", "process_mrelease"),
    *("migrate_pages", "move_pages", "utime", "utimes", "futimesat", "vmsplice"),
)
"""System calls that no test needs and that reach beyond a process or far into the kernel, hold memory that no process
shows, or change a file that Landlock does not look after."""
OF_LANDLOCK, SENDING = ("socket", "inotify_add_watch"), ("sendmsg", "sendmmsg")
"""More of them where files are Landlock's to keep: what tells of files outside; what sends open files out of sight."""
XATTRS = tuple(f"{who}{what}xattr" for what in ("set", "remove", "get", "list") for who in ("", "l", "f"))
"""Answered as by a file system without them, which every program that copies takes."""
TOO_NEW = (463, 464, 465, 466, 467, 469)
"""setxattrat and its like, open_tree_attr, file_setattr, by number: libseccomp does not know the names."""
OF_OTHERS = (
    *("prlimit64", "sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr"),
    *("setpriority", "ioprio_set"),
)
"""Calls that take a process, as their first argument or (the last two) their second; 0 means oneself."""
ATTRIBUTES = (0x40086602, 0x40087602, 0x401C5820, 0x40806685, 0x800C6613)
"""ioctl(2) for a file's flags, version, project, verity and encryption: the file only has to be open for reading."""
FAMILIES = (1, 2, 10, 16)
"""Socket families that a run with a network of its own may open: unix, IPv4, IPv6, netlink."""
CLONE_NEWUSER = 0x10000000


@dataclass(frozen=True, slots=True)
class Isolation:
    """A layer by name; `canary.choose` finds the best that works."""

    name: str


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python, and the folders that it is made of."""

    path: str
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one run starts. Paths in `read` and `write` are for Landlock; none: the layer needs none."""

    command: tuple[str, ...]
    scratch: str
    """The run's own folder as it sees it."""
    inner: tuple[str, ...] = ()
    """The file systems that only it sees; none: `scratch` is a folder of this machine."""
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    filters: str = ""
    """BPF programs, base64, with a space between them; all but the first are put on last."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """System calls, with their numbers, that it hands to the process above the tests; see child/metadata.py."""
    seccomp: int = 0
    """The number of seccomp(2)."""
    reaped: bool = False
    entry: Mapping[str, Any] | None = None
    """Of a run that a server forks: what the server is told. The command is the server's, the same for all its runs."""


@contextmanager
def planned(layer: Isolation, python: Interpreter, disk_bytes: int, warm: bool = False) -> Iterator[Plan]:
    """A plan for one run, forked by a server where `warm`; a scratch folder goes at the end, whatever is in it."""
    child = (python.path, "-s", "-P", str(CHILD / "main.py"))
    uid = FIRST_UID + secrets.randbelow(2**29) if os.geteuid() == 0 else None
    if layer.name == "bubblewrap":
        own = Plan((), INSIDE, inner=(INSIDE, *SMALL), filters=_filters(sockets=True))
        if warm:
            entry = {"uid": uid, "memory": [(INSIDE, disk_bytes), *((path, SMALL_BYTES) for path in SMALL)]}
            yield replace(own, command=(*_bubblewrap(python, uid, SERVING), *child), entry=entry)
        else:
            one = ("--die-with-parent", *(("--disable-userns",) if uid is None else ()))
            command = (*_bubblewrap(python, uid, ALONE, one, disk_bytes), *_drop(uid, python, hidden=True), *child)
            yield replace(own, command=command)
        return
    with own_folder() as scratch:
        yield _on_this_machine(layer, python, child, uid, str(scratch))


def _on_this_machine(
    layer: Isolation, python: Interpreter, child: tuple[str, ...], uid: int | None, scratch: str
) -> Plan:
    """The plan of a layer without a file system of its own."""
    if layer.name == UNSAFE:
        return Plan(child, scratch, reaped=sys.platform == "linux")
    if uid is not None:
        os.chown(scratch, uid, uid)
    spaces = _unshare(uid) if layer.name == "namespaces" else ()
    read = (*SYSTEM, *SYSTEM_FILES, *DEVICES, *python.folders, str(CHILD), *(("/proc",) if spaces else ()))
    return Plan(
        (*spaces, *_drop(uid, python, hidden=False), *child),
        scratch,
        read=read,
        write=(scratch, "/dev/null"),
        filters=_filters(sockets=False),
        calls=_numbers(tuple(CALLS)),
        seccomp=_numbers(("seccomp",))["seccomp"],
        reaped=not spaces,
    )


def _bubblewrap(
    python: Interpreter, uid: int | None, able: Sequence[str], more: Sequence[str] = (), disk_bytes: int = SMALL_BYTES
) -> tuple[str, ...]:
    """bwrap's words. As root no user namespace is made, so that the run can have another user id; what it then can do
    before it has, `able` says."""
    spaces = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    capable = ("--cap-drop", "ALL", *(word for name in able for word in ("--cap-add", name)))
    user = ("--unshare-user",) if uid is None else capable
    paths = (*SYSTEM, *SYSTEM_FILES, *python.folders, str(CHILD))
    above = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/", *SMALL, *SYSTEM})
    seen = [word for folder in above for word in ("--perms", "0755", "--dir", folder)]
    for path in paths:
        if os.path.islink(path):
            seen += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            seen += ["--ro-bind", path, path]
    memory = [word for path in SMALL for word in _in_memory(path, SMALL_BYTES)]
    kernel = ("--proc", "/proc", "--dev", "/dev", *memory, "--remount-ro", "/dev", *_in_memory(INSIDE, disk_bytes))
    # What is seen comes last: an interpreter may lie below /tmp.
    return (_tool("bwrap"), *more, *spaces, *user, *kernel, *seen, "--remount-ro", "/", "--")


def _in_memory(path: str, size: int) -> tuple[str, ...]:
    return ("--perms", "1777", "--size", str(size), "--tmpfs", path)


def _unshare(uid: int | None) -> tuple[str, ...]:
    spaces = ("--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts", "--mount-proc")
    user = ("--user", "--map-current-user") if uid is None else ()
    # --kill-child ends the tests with unshare; the signal ends unshare with us.
    return (_tool("setpriv"), "--pdeathsig=KILL", _tool("unshare"), *user, *spaces, "--")


def _drop(uid: int | None, python: Interpreter, hidden: bool) -> tuple[str, ...]:
    """The words that take another user id, where this runs as root.

    An interpreter in a folder that is closed to others (root's home) stays readable by one capability; which files are
    read is then Landlock's to say.
    """
    if uid is None:
        return ()
    words: tuple[str, ...] = (
        _tool("setpriv"),
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "--pdeathsig=KILL",
    )
    if not hidden and any(_closed(folder) for folder in python.folders):
        words += ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    return (*words, "--")


def _closed(folder: str) -> bool:
    """Whether users other than the owner cannot come to the folder."""
    return any(not path.stat().st_mode & 0o001 for path in (Path(folder), *Path(folder).parents))


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UserError(f"there is no {name}", "sandbox", "Install bubblewrap and util-linux")
    return path


@cache
def _filters(sockets: bool) -> str:
    """BPF programs for seccomp(2) as base64, with a space between: DENIED and the like, and more user namespaces.

    With `sockets` (the run has a file system and a network of its own) families that lead out of it are refused, else
    all sockets are, and changes of metadata are handed up. Raises ImportError or OSError where libseccomp is not there.
    """
    import pyseccomp

    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse, unknown = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(errno.ENOSYS)
    for number in _numbers(DENIED + (() if sockets else OF_LANDLOCK)).values():
        program.add_rule(refuse, number)
    for number in _numbers(XATTRS).values():
        program.add_rule(pyseccomp.ERRNO(errno.ENOTSUP), number)
    # Room beyond the end of a file is in no limit of the kernel's.
    program.add_rule(pyseccomp.ERRNO(errno.ENOTSUP), "fallocate", pyseccomp.Arg(1, pyseccomp.NE, 0))
    for name, number in _numbers(OF_OTHERS).items():
        program.add_rule(refuse, number, pyseccomp.Arg(int(name in OF_OTHERS[-2:]), pyseccomp.NE, 0))
    program.add_rule(refuse, "setpriority", pyseccomp.Arg(0, pyseccomp.EQ, os.PRIO_USER))
    for request in ATTRIBUTES:
        program.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    for family in sorted({*range(64)} - {*FAMILIES}) if sockets else ():
        program.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    for number in _numbers(tuple(CALLS)).values() if not sockets else ():
        program.add_rule(pyseccomp.NOTIFY, number)
    program.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER))
    # clone3 hides its flags from a filter; "not implemented" makes the C library take clone.
    for number in (*_numbers(("clone3",)).values(), *TOO_NEW):
        program.add_rule(unknown, number)
    if sockets:
        return _exported(program)
    # Put on last: the process above the tests is sent a descriptor first.
    last = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for number in _numbers(SENDING).values():
        last.add_rule(refuse, number)
    return f"{_exported(program)} {_exported(last)}"


def _exported(program: Any) -> str:
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()


@cache
def _numbers(names: tuple[str, ...]) -> dict[str, int]:
    """The numbers of those system calls that this architecture has."""
    import pyseccomp

    numbers = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in names}
    return {name: number for name, number in numbers.items() if number >= 0}


@cache
def interpreter(path: str = "") -> Interpreter:
    """The Python at `path`, or ours. Raises UserError for one that does not start or has no pytest."""
    if not path:
        return _placed(sys.executable, sys.prefix, sys.base_prefix)
    asked = "import json, sys, pytest; print(json.dumps([sys.prefix, sys.base_prefix]))"
    try:
        done = subprocess.run([path, "-c", asked], capture_output=True, text=True, timeout=60, check=False)
        prefixes = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        remedy = "Give the path of a Python 3 that has pytest"
        raise UserError("this Python does not run pytest", path, remedy) from error
    return _placed(shutil.which(path) or path, *prefixes)


def _placed(executable: str, *prefixes: str) -> Interpreter:
    """An interpreter by a path that is there inside too: without `..`, and without a link from elsewhere; its folders,
    links followed and not, without what the system folders hold already."""
    plain, real = os.path.abspath(executable), os.path.realpath(executable)
    places = [*prefixes, *map(os.path.realpath, prefixes)]
    if not _below(real, places):
        places.append(os.path.dirname(real))
    kept = tuple(place for place in dict.fromkeys(places) if not _below(place + os.sep, SYSTEM))
    return Interpreter(plain if _below(plain, [*places, *SYSTEM]) else real, kept)


def _below(path: str, places: Sequence[str]) -> bool:
    return path.startswith(tuple(place + os.sep for place in places))
