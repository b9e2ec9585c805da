"""Runs that are forked instead of started: a server (child/warm.py) for each interpreter, begun when first asked for.

A server holds nothing of ours but what it is sent, in bubblewrap, and ends when this process does. One that fails
before a run has begun is given up, and that run has a process of its own; one that fails later makes an InfraError.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repo_agent.sandbox.isolate import CHILD, INSIDE, SMALL, Isolation, Plan, interpreter
from repo_agent.sandbox.job import TestJob

BEGIN_SECONDS, END_SECONDS = 60.0, 10.0
MOST_FAILURES = 3
BEGUN = b"begun"
CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a sender; see unix(7)."""


LOST = 256
"""The exit code of a run whose server ended before it: more than any process can have."""


class NotServed(Exception):
    """A run did not begin; nothing of it has been read."""


def serves(isolation: Isolation, job: TestJob) -> bool:
    """Whether a run may be forked: pytest's alone, for any other would find pytest's modules already there; and not
    where the interpreter lies below a folder that each run has anew."""
    if isolation.name != "bubblewrap" or job.kind != "pytest":
        return False
    seen = (*interpreter(job.python).folders, str(CHILD))
    return not any((path + os.sep).startswith(folder + os.sep) for path in seen for folder in (INSIDE, *SMALL))


def forked(plan: Plan, environment: Mapping[str, str]) -> Callable[[int, int, int], Forked]:
    """Starts a run of the plan's server. Raises NotServed."""

    def start(job: int, results: int, output: int) -> Forked:
        key = plan.command
        with _LOCK:
            if _FAILURES[key] >= MOST_FAILURES:
                raise NotServed
            server = _SERVERS.get(key)
            if server is None or server.process.poll() is not None:
                server = _SERVERS[key] = Server(key, environment)
        try:
            return server.fork(plan.entry or {}, (job, results, output))
        except OSError as error:
            with _LOCK:
                _FAILURES[key] += 1
                if _SERVERS.get(key) is server:
                    _SERVERS.pop(key).close()
            raise NotServed from error

    return start


class Server:
    """One process that forks. `command` has everything but the descriptor on which it is asked."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def fork(self, entry: Mapping[str, Any], fds: Sequence[int]) -> Forked:
        """Raises OSError where the run does not begin."""
        host, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        host.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        host.settimeout(BEGIN_SECONDS)
        try:
            with theirs:
                socket.send_fds(self._control, [json.dumps(entry).encode()], [*fds, theirs.fileno()])
            said, beside, _, _ = host.recvmsg(64, socket.CMSG_SPACE(CREDENTIALS.size))
            if said != BEGUN:
                raise OSError("the run did not begin")
        except OSError:
            host.close()
            raise
        return Forked(host, CREDENTIALS.unpack(beside[0][2])[0])

    def forget(self) -> None:
        self._control.close()
        self.process.returncode = 0  # or Popen complains that nobody waited

    def close(self) -> None:
        """It ends when it is hung up on, with all its runs."""
        self._control.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Forked:
    """A run of a server, by the socket to its keeper; `pid` is the first process of its namespaces."""

    def __init__(self, host: socket.socket, pid: int) -> None:
        self._host, self.pid = host, pid
        self.returncode: int | None = None

    def fileno(self) -> int:
        return self._host.fileno()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._host.settimeout(timeout)
            try:
                said = self._host.recv(64)
            except (BlockingIOError, TimeoutError) as error:
                raise subprocess.TimeoutExpired("a forked run", timeout or 0) from error
            except OSError:
                said = b""
            self.returncode = int(said) if said else LOST
            self._host.close()
        return self.returncode

    def terminate(self) -> None:
        """Hang up: the keeper kills the run, then says how it ended."""
        if self.returncode is None:
            self._host.shutdown(socket.SHUT_WR)


_LOCK = threading.Lock()
_SERVERS: dict[tuple[str, ...], Server] = {}
_FAILURES: Counter[tuple[str, ...]] = Counter()


@atexit.register
def close() -> None:
    """End every server."""
    with _LOCK:
        while _SERVERS:
            _SERVERS.popitem()[1].close()


def _forget() -> None:
    """In a fork of this process, the servers are the other's: it must not hold their sockets, nor use them."""
    global _LOCK
    _LOCK = threading.Lock()
    while _SERVERS:
        _SERVERS.popitem()[1].forget()


os.register_at_fork(after_in_child=_forget)
