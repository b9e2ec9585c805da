"""A process that has Python, pytest and our own code loaded, and forks for each run: `python main.py CONTROL_FD`.

It runs inside bubblewrap and never reads or loads anything of a task or a model. For each message on CONTROL_FD,
{"uid": int or null, "memory": [[folder, bytes], ...]} with the descriptors job, results, output and host, come three
processes, each the parent of the next:

keeper   closes what is not this run's, leaves every namespace for a new one, and kills the next on the host's word
first    process 1 of the new namespaces: takes file systems of its own, then gives up its user id and capabilities
tests    what `work` makes of the job, confined as in a process of its own

`first` says BEGUN on `host`, the keeper the exit code at the end. The host hangs up to end a run; where it has died, it
has hung up on all of them, and on this process.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import enum
import fcntl
import gc
import importlib
import json
import os
import pathlib
import select
import signal
import socket
import struct
import traceback
from typing import Any, NoReturn

from repo_agent.sandbox.child import guard, tests, work  # noqa: F401
from repo_agent.sandbox.child.confine import checked
from repo_agent.sandbox.child.marks import note_early
from repo_agent.sandbox.child.origin import read_early
from repo_agent.sandbox.child.reap import PR_SET_PDEATHSIG

NEW_MOUNTS, NEW_CGROUP, NEW_NAME, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, NEW_PID, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = NEW_MOUNTS | NEW_CGROUP | NEW_NAME | NEW_IPC | NEW_PID | NEW_NETWORK
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, RECURSIVE, PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
"""Flags of mount(2)."""
SET_FLAGS, UP = 0x8914, 1
"""Of a network interface; see netdevice(7)."""
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24
CAPABILITIES, MOST_CAPABILITIES = 0x20080522, 64
"""The version of capset(2), and more capabilities than there are."""
PYTHONS = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
"""What Python handles or ignores from its start on."""
LATER = ("_pytest._argcomplete", "pdb")
"""What every pytest loads when it runs."""
ANSWERING = (pathlib.PurePath, collections.Counter, collections.OrderedDict, enum.Flag)
"""Classes, written in Python, of values that tests often compare."""
BEGUN = b"begun"


def serve(control_fd: int) -> NoReturn:
    """Fork on every message until the host hangs up."""
    for name in (*guard.plugins(), *LATER):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    note_early(guard.WATCHED)
    read_early(ANSWERING)
    gc.collect()
    gc.freeze()  # no run's collector has to look through what is loaded here
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers report themselves, and nobody waits for them
    while True:
        message, fds, _, _ = socket.recv_fds(control, 2**12, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            try:
                control.detach()
                _keep(json.loads(message), *fds)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)


def _keep(entry: dict[str, Any], job: int, results: int, output: int, host_fd: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _close_all_but(job, results, host_fd)
    _leave(apart=entry["uid"] is None)
    host = socket.socket(fileno=host_fd)
    first = os.fork()
    if first == 0:
        _enter(entry)
        host.send(BEGUN)
        host.close()
        _fork_below()
        work.main(job, results)
        os._exit(1)
    os.close(job)
    os.close(results)
    ends = os.pidfd_open(first)
    if ends not in select.select([host.fileno(), ends], [], [])[0]:
        os.kill(first, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    host.send(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _fork_below() -> None:
    """Return in a child. The calling process, the first of its namespaces, waits for it, and for every orphan.

    No signal from below reaches it, since it handles none; its memory and descriptors are closed to those below.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    pythons = {number: signal.signal(number, signal.SIG_DFL) for number in PYTHONS}
    checked(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    checked(libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    below = os.fork()
    if below == 0:
        for number, handler in pythons.items():
            signal.signal(number, handler)
        checked(libc.prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)
        return
    _close_all_but()
    while (ended := os.wait())[0] != below:
        pass
    code = os.waitstatus_to_exitcode(ended[1])
    os._exit(code if code >= 0 else 128 - code)


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, *kept):
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))


def _leave(apart: bool) -> None:
    """New namespaces; `apart`: with a user namespace, in which this user is the only one."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.unshare, NAMESPACES | (NEW_USER if apart else 0))
    if apart:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _enter(entry: dict[str, Any]) -> None:
    """In process 1 of the new namespaces: its file systems and its network with itself; then no right is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.mount, None, b"/", None, RECURSIVE | PRIVATE, None)
    checked(libc.mount, b"proc", b"/proc", b"proc", READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS, None)
    checked(
        libc.mount, b"devpts", b"/dev/pts", b"devpts", NO_SETUID | NO_PROGRAMS, b"newinstance,ptmxmode=0666,mode=620"
    )
    for folder, size in entry["memory"]:
        options = f"mode=1777,size={size}".encode()
        checked(libc.mount, b"tmpfs", folder.encode(), b"tmpfs", NO_SETUID | NO_DEVICES, options)
    os.chdir("/")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    if (uid := entry["uid"]) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    else:  # the new user namespace gave all of them
        for number in range(MOST_CAPABILITIES):
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    checked(libc.capset, struct.pack("Ii", CAPABILITIES, 0), bytes(24))
