"""What a process takes away from itself before it loads tested code: limits, files, system calls. Linux only.

Sources: landlock(7), seccomp(2), setrlimit(2), include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import base64
import ctypes
import os
import resource
import struct
from collections.abc import Mapping, Sequence
from typing import Any

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_SET_MODE_FILTER, NEW_LISTENER = 1, 1 << 3
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""All file rights by ABI version; from version 5 on they are 16 bits."""
TCP_RIGHTS, SCOPES = 0b11, 0b11
"""Bind and connect, from ABI 4 on; abstract sockets and signals, from ABI 6 on."""


def limit(limits: Mapping[str, int]) -> None:
    """Set hard resource limits by name, such as {"AS": 2**30}; a limit that is lower already stays."""
    for name, value in {**limits, "CORE": 0}.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def own_processes() -> int:
    """Threads of this user on the machine: RLIMIT_NPROC counts them all where no user namespace is there."""
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:
            continue
    return count


def confine(read: Sequence[str], write: Sequence[str], filters: str, seccomp: int = 0) -> int:
    """Files by Landlock where any path is named, system calls by the first BPF program (base64) where there is one.

    Where the program asks a supervisor, `seccomp` is that system call's number, and the descriptor on which the
    supervisor is asked is returned; else -1. Raises OSError where the kernel refuses. No new privileges either way.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if read:
        _landlock(libc, read, write)
    if not filters:
        return -1
    return _filter(libc, filters.split()[0], seccomp)


def confine_more(filters: str) -> None:
    """The other BPF programs, once no descriptor has to be sent any more."""
    for program in filters.split()[1:]:
        _filter(ctypes.CDLL(None, use_errno=True), program, 0)


def _filter(libc: Any, text: str, seccomp: int) -> int:
    program = base64.b64decode(text)
    code = ctypes.create_string_buffer(program)
    bpf = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    if seccomp:
        return checked(libc.syscall, seccomp, SECCOMP_SET_MODE_FILTER, NEW_LISTENER, bpf)
    checked(libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, bpf, 0, 0)
    return -1


def landlock_version() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def _landlock(libc: Any, read: Sequence[str], write: Sequence[str]) -> None:
    version = landlock_version()
    every = RIGHTS.get(version, (1 << 16) - 1)
    attributes = struct.pack("QQQ", every, TCP_RIGHTS if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = checked(libc.syscall, CREATE_RULESET, ctypes.create_string_buffer(attributes), ctypes.c_size_t(size), 0)
    for paths, rights in ((read, READ), (write, every)):
        for path in paths:
            _allow(libc, ruleset, path, rights & every)
    checked(libc.syscall, RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(libc: Any, ruleset: int, path: str, rights: int) -> None:
    """Allow `rights` at and below a path; one that is not there needs no rule."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= FILE_RIGHTS
    beneath = struct.pack("=Qi", rights, handle)
    checked(libc.syscall, ADD_RULE, ruleset, 1, ctypes.create_string_buffer(beneath), 0)
    os.close(handle)


def checked(function: Any, *args: Any) -> int:
    result = int(function(*args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)} ({getattr(function, '__name__', 'call')} {args[0]})")
    return result
