"""Modes, owners and times of files, changed on behalf of tested code where Landlock is what keeps files apart.

Landlock does not know chmod, chown and utime. So seccomp hands those calls to this supervisor, a thread of the process
above the tests, which is not confined: it looks the file up itself, and changes it where it lies in the run's own
folder. Paths and values are read once, and the change is made on the file that was looked at, so nothing can be
exchanged in between. Source: seccomp_unotify(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

RECEIVE, SEND, IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
NOTIFICATION, RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=Qqii")
HERE = -100
"""AT_FDCWD."""
NOFOLLOW = 0x100
MOST_PATH = 4096
TIMES_BYTES = 32
PLAIN_MODE = 0o1777


class Call(NamedTuple):
    """Where a system call holds what: places among its six arguments; None: it has none."""

    change: str
    """mode, owner or times"""
    folder: int | None
    path: int | None
    value: int
    flags: int | None = None
    """Where both folder and path are None, the first argument is a descriptor."""


CALLS = {
    "chmod": Call("mode", None, 0, 1),
    "fchmod": Call("mode", None, None, 1),
    "fchmodat": Call("mode", 0, 1, 2),
    "fchmodat2": Call("mode", 0, 1, 2, 3),
    "chown": Call("owner", None, 0, 1),
    "lchown": Call("owner", None, 0, 1),
    "fchown": Call("owner", None, None, 1),
    "fchownat": Call("owner", 0, 1, 2, 4),
    "utimensat": Call("times", 0, 1, 2, 3),
}


def supervise(connection: socket.socket, names: Mapping[int, str], folder: str) -> None:
    """In a thread: wait for the descriptor that `confine` gave the tested process, then answer its calls."""

    def serve() -> None:
        _, fds, _, _ = socket.recv_fds(connection, 1, 1)
        connection.close()
        supervisor = Supervisor(names, folder)
        while fds and supervisor.answer(fds[0]):
            pass

    threading.Thread(target=serve, daemon=True).start()


class Supervisor:
    def __init__(self, names: Mapping[int, str], folder: str) -> None:
        self._names, self._folder = names, folder + os.sep
        self._libc = ctypes.CDLL(None, use_errno=True)

    def answer(self, listener: int) -> bool:
        """One call; False where no tested process is left."""
        buffer = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, RECEIVE, buffer)
        except OSError as error:
            return error.errno in (errno.EINTR, errno.ENOENT)
        number, thread, _, call, _, _, *args = NOTIFICATION.unpack(buffer)
        try:
            self._change(
                self._names[call], thread, args, lambda: fcntl.ioctl(listener, IS_VALID, struct.pack("=Q", number))
            )
            code = 0
        except OSError as error:
            code = error.errno or errno.EPERM
        except (KeyError, ValueError):
            code = errno.EPERM
        try:
            fcntl.ioctl(listener, SEND, RESPONSE.pack(number, 0, -code, 0))
        except OSError as error:
            return error.errno in (errno.EINTR, errno.ENOENT)
        return True

    def _change(self, name: str, thread: int, args: list[int], check: Callable[[], object]) -> None:
        call = CALLS[name]
        memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
        try:
            check()
            flags = args[call.flags] & 0xFFFFFFFF if call.flags is not None else 0
            follow = not flags & NOFOLLOW and name != "lchown"
            place = _place(thread, call, args, memory)
            pointer = args[call.value]
            times = os.pread(memory, TIMES_BYTES, pointer) if call.change == "times" and pointer else None
        finally:
            os.close(memory)
        target = os.open(place, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        try:
            if not os.readlink(f"/proc/self/fd/{target}").startswith(self._folder):
                raise PermissionError(errno.EPERM, "outside")
            self._apply(call, f"/proc/self/fd/{target}".encode(), args, times)
        finally:
            os.close(target)

    def _apply(self, call: Call, file: bytes, args: list[int], times: bytes | None) -> None:
        value = args[call.value]
        if call.change == "mode":
            done = self._libc.chmod(file, value & PLAIN_MODE)
        elif call.change == "owner":
            owner, group = (ctypes.c_uint32(args[at] & 0xFFFFFFFF) for at in (call.value, call.value + 1))
            done = self._libc.chown(file, owner, group)
        else:
            done = self._libc.utimensat(HERE, file, times, 0)
        if done:
            raise OSError(ctypes.get_errno(), "refused")


def _place(thread: int, call: Call, args: list[int], memory: int) -> str:
    """The path by which this process comes to what the call names."""
    if call.path is None:
        return f"/proc/{thread}/fd/{_number(args[0])}"
    folder = HERE if call.folder is None else _number(args[call.folder])
    base = f"/proc/{thread}/cwd" if folder == HERE else f"/proc/{thread}/fd/{folder}"
    if not args[call.path]:  # utimensat without a path means the descriptor
        return base
    path = os.fsdecode(_text(memory, args[call.path]))
    if path.startswith("/proc/self/"):
        return path.replace("self", str(thread), 1)
    return path if path.startswith("/") else f"{base}/{path}"


def _number(argument: int) -> int:
    number: Any = struct.unpack("=i", struct.pack("=I", argument & 0xFFFFFFFF))[0]
    return int(number)


def _text(memory: int, address: int) -> bytes:
    """The bytes up to the first zero; a page at a time, since the next one may not be there."""
    found = b""
    while len(found) < MOST_PATH:
        step = 4096 - (address + len(found)) % 4096
        piece, ends, _ = os.pread(memory, step, address + len(found)).partition(b"\0")
        found += piece
        if ends:
            return found
    raise OSError(errno.ENAMETOOLONG, "no end")
