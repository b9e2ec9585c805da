"""What a run of tests and a run of cases share: silence, a clock on each of them, and an error in one line."""

from __future__ import annotations

import errno
import math
import os
import signal
import time
import traceback
from collections.abc import Callable

CLOCK_FACTOR = 4
"""A test may take this many times its processor time on the clock."""
LEAST_WAIT = 0.05
"""Seconds; less is no reason to wait longer."""
MESSAGE_CHARS = 2_000
MOST_CAUSES = 8
REFUSED = {
    errno.ENETUNREACH: "no network",
    errno.EHOSTUNREACH: "no network",
    errno.EROFS: "files outside the workspace",
    errno.EMFILE: "limit of open files",
    errno.EFBIG: "limit of a file's size",
    errno.ENOSPC: "limit of all files",
    errno.EAGAIN: "limit of processes",
}
"""What an error of the system means in a sandbox."""


def silence() -> None:
    """What tested code prints is shown to no one, so nothing of it has to be read, capped or waited for."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


class Clock:
    """Calls `timed_out` when an armed time is over; made before tested code loads, which cannot take it away then."""

    def __init__(self, timed_out: Callable[..., None]) -> None:
        self._timer, self._read, self._timed_out = signal.setitimer, os.pread, timed_out
        self._processor, self._until = time.process_time, math.inf
        try:
            self._kernel = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._kernel = -1
        self._waited = 0.0
        signal.signal(signal.SIGALRM, self._alarm)
        signal.signal(signal.SIGPROF, timed_out)

    def arm(self, seconds: float) -> None:
        """Limit processor time, so that a busy machine fails no test; and the clock, for tests that wait. 0 ends it.

        Tested code can stop a timer, so what has run is looked at here as well.
        """
        if self._processor() > self._until:
            self._timed_out()
        self._until = self._processor() + seconds + LEAST_WAIT if seconds else math.inf
        self._waited = self._seconds_waited()
        self._timer(signal.ITIMER_PROF, seconds)
        self._timer(signal.ITIMER_REAL, seconds * CLOCK_FACTOR)

    def _alarm(self, *_: object) -> None:
        """The clock stands still while this process waits for a processor; the run as a whole has its wall."""
        before, self._waited = self._waited, self._seconds_waited()
        if self._waited - before > LEAST_WAIT:
            self._timer(signal.ITIMER_REAL, self._waited - before)
        else:
            self._timed_out()

    def _seconds_waited(self) -> float:
        """For a processor, so far; 0 where the kernel does not tell (https://docs.kernel.org/scheduler/sched-stats.html)."""
        try:
            return int(self._read(self._kernel, 64, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0


def one_line(error: BaseException) -> str:
    """`AssertionError: assert 3 == 4`; for a syntax error, with file and line."""
    lines = traceback.format_exception_only(type(error), error)
    text = f"{type(error).__name__}: {error}" if isinstance(error, SyntaxError) else lines[0]
    return text.strip().split("\n", 1)[0][:MESSAGE_CHARS]


def refusal(error: BaseException | None, inside: str, hides: bool) -> str:
    """What a sandbox refused, as far as an error or one of its causes says; "" for every other error.

    `inside` is the folder that the tests may use; `hides`: other files do not seem to be there.
    """
    for _ in range(MOST_CAUSES):
        if error is None:
            break
        if isinstance(error, OSError) and (found := _refused(error, inside, hides)):
            return found
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return REFUSED[errno.EAGAIN]
        error = error.__cause__ or error.__context__
    return ""


def _refused(error: OSError, inside: str, hides: bool) -> str:
    if type(error).__name__ == "gaierror":
        return REFUSED[errno.ENETUNREACH]
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    outside = os.path.isabs(path) and not (path + os.sep).startswith(inside + os.sep)
    if error.errno in (errno.EPERM, errno.EACCES):
        return "sockets and some system calls" if not path else REFUSED[errno.EROFS] if outside else ""
    if error.errno == errno.ENOENT:
        return REFUSED[errno.EROFS] if outside and hides else ""
    return REFUSED.get(error.errno or 0, "")
