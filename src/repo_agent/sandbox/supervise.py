"""One contained run: start it, read it while it runs, watch its limits, and leave nothing of it alive.

Runs in a thread; the command is a `Plan` of isolate.py. What is measured, every 50 ms, stands in watch.py.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from repo_agent.sandbox.child.reap import sweep
from repo_agent.sandbox.isolate import Plan
from repo_agent.sandbox.warm import Forked
from repo_agent.sandbox.watch import Bounds, Watch

TICK = 0.05
DRAIN_SECONDS = 1.0
ENDING_SECONDS = 5.0
RESULT_BYTES = 16 * 2**20
KEPT_BYTES = 32 * 2**10
"""Of the output: so much of its head, and of its tail."""
PATIENCE = 10
"""A run that other programs starve may last so many times its wall clock; see `Watch.starved`."""


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended."""

    code: int
    """Exit code; negative or above 128: a signal."""
    over: str
    """The limit that ended it: wall, memory, processes, files, depth, disk, hidden, results; "" for none."""
    results: bytes
    output: str
    """Head and tail of what it printed, with a mark between them."""


Process = subprocess.Popen[bytes] | Forked
Start = Callable[[int, int, int], Process]
"""Starts a process with these descriptors: the job, the results, the output. Raises OSError where that fails."""


def run(plan: Plan, start: Start, job: IO[bytes], bounds: Bounds, cancel: threading.Event) -> End:
    """Start a process of the plan on the job, wait for its end or a limit, then kill whatever is left.

    Raises OSError where it cannot be started at all.
    """
    with contextlib.ExitStack() as ours:
        with contextlib.ExitStack() as theirs:
            (results, writing), (output, printing) = _pipe(ours, theirs), _pipe(ours, theirs)
            process = start(job.fileno(), writing, printing)
        with _Run(process, results, output, plan, bounds) as active:
            active.wait(cancel)
    return active.end()


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing


def fresh(command: Sequence[str], environment: Mapping[str, str]) -> Start:
    """A process that is begun for this one run."""

    def start(job: int, results: int, output: int) -> Process:
        return subprocess.Popen(
            [*command, str(job), str(results)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            pass_fds=(job, results),
            start_new_session=True,
        )

    return start


@dataclass
class _Buffer:
    """Bytes of a stream: head and tail, and how many there were."""

    head_bytes: int
    tail_bytes: int
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    count: int = 0

    def add(self, data: bytes) -> None:
        self.count += len(data)
        room = self.head_bytes - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        del self.tail[: -self.tail_bytes or None]

    def text(self) -> str:
        left_out = self.count - len(self.head) - len(self.tail)
        mark = f"\n[... {left_out} bytes ...]\n" if left_out else ""
        return self.head.decode(errors="replace") + mark + self.tail.decode(errors="replace")


class _Run:
    """A started process with its two streams; leaving the context ends all of it."""

    def __init__(self, process: Process, results: int, output: int, plan: Plan, bounds: Bounds) -> None:
        self._process, self._plan, self._bounds = process, plan, bounds
        self._over = ""
        self._watch = Watch(process.pid, plan, bounds)
        self._streams = {
            results: _Buffer(RESULT_BYTES, 0),
            output: _Buffer(KEPT_BYTES, KEPT_BYTES),
        }
        self._results = results
        self._selector = selectors.DefaultSelector()
        for stream in self._streams:
            os.set_blocking(stream, False)
            self._selector.register(stream, selectors.EVENT_READ)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _kill(self._process, self._plan)
            deadline = time.monotonic() + DRAIN_SECONDS
            while self._selector.get_map() and time.monotonic() < deadline:
                self._read(0.02)
        finally:
            self._selector.close()

    def wait(self, cancel: threading.Event) -> None:
        """Until the process ends by itself, a limit is reached or `cancel` is set."""
        wall, began = self._bounds.wall_seconds, time.monotonic()
        deadline = began + wall
        with _process_handle(self._process) as handle:
            if handle is not None:
                self._selector.register(handle, selectors.EVENT_READ)
            looked = time.monotonic()
            while self._process.poll() is None and not self._over and not cancel.is_set():
                self._read(min(TICK, max(0.0, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    deadline = began + min(wall + self._watch.starved(), PATIENCE * wall)
                if time.monotonic() >= deadline:
                    self._over = "wall"
                elif time.monotonic() - looked >= TICK:
                    self._over, looked = self._over or self._watch.look(), time.monotonic()
            if handle is not None:
                self._selector.unregister(handle)

    def end(self) -> End:
        results, output = self._streams.values()
        assert self._process.returncode is not None
        return End(self._process.returncode, self._over, bytes(results.head), output.text())

    def _read(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fd not in self._streams:
                continue
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, 2**16)
                self._streams[key.fd].add(data)
                if not data:
                    self._selector.unregister(key.fd)
        if self._streams[self._results].count > RESULT_BYTES:
            self._over = "results"


@contextlib.contextmanager
def _process_handle(process: Process) -> Iterator[int | None]:
    """A file descriptor that is readable once the process has ended; None where the system has none."""
    if isinstance(process, Forked):
        yield process.fileno()
        return
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _kill(process: Process, plan: Plan) -> None:
    """End the process and all that it started.

    The first process of a namespace takes the others with it; its parent ends when they are gone.
    """
    if process.poll() is None:
        if plan.reaped or plan.entry is not None:
            process.terminate()
        else:
            for pid in _children(process.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_SECONDS)
    if process.poll() is None:
        sweep(process.pid)
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
