"""A process above the tests: every orphan of theirs falls to it, and it kills them all at the end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SWEEP_SECONDS = 10.0


def fork_below_reaper(meanwhile: Callable[[], None]) -> None:
    """Return in a child process. The calling process stays above it, calls `meanwhile`, and ends when the child and all
    that it started are dead.

    SIGTERM makes it kill them, and so does the end of the process that started it. Its exit code is the child's;
    128 + the signal where one ended it.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # SIGTERM waits in the queue until `_wait` asks for it, so no handler has to run between two steps.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
        return
    meanwhile()
    status = _wait(child)
    sweep(os.getpid())
    os._exit(status)


def _wait(child: int) -> int:
    while True:
        for pid, status in _reaped():
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        taken = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, 1.0)
        if taken and taken.si_signo == signal.SIGTERM:
            return 128 + signal.SIGTERM


def _reaped() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status))


def descendants(root: int) -> list[int]:
    """Every process below `root`, which is not among them. Reads /proc; what ends meanwhile is left out."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
            texts = [_text(f"/proc/{parent}/task/{thread}/children") for thread in threads]
        except OSError:
            continue
        children = [int(word) for text in texts for word in text.split()]
        found += children
        waiting += children
    return found


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def sweep(root: int) -> bool:
    """Kill every process below `root`: stop them first, until none is new, so that none slips away while forking."""
    ends = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < ends:
        stopped: set[int] = set()
        while new := set(descendants(root)) - stopped:
            _signal(new, signal.SIGSTOP)
            stopped |= new
        _signal(stopped, signal.SIGKILL)
        if root == os.getpid():
            _reaped()
        if not stopped:
            return True
        time.sleep(0.002)
    return False


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue
