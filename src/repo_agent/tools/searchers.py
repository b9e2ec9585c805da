"""Searches with a model's pattern, in a few processes of their own: nothing that a pattern does reaches this one.

A process is started when a search first wants one, kept for the next, and replaced once it is dead: its processor time
was up, its memory, or somebody killed it. It ends with its standard input, so with this process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repo_agent.errors import InfraError
from repo_agent.tools.registry import ToolError

SECONDS = 2.0
"""Processor time of one search."""
MEMORY_BYTES = 256 * 2**20
"""Address space of one of the processes."""
PROCESSES = 4
FILE_BYTES, HIT_CHARS = 2**20, 200
"""How much of one file is searched, and of a line shown."""
_ANSWER_BYTES = 16 * 2**20
_CLOCK_SECONDS = 300.0
"""A process that says nothing for so long hangs, by no fault of a pattern."""
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""Ends that are somebody else's doing: the search is tried again."""


def search(pattern: str, files: Sequence[tuple[str, str]], limit: int) -> list[str]:
    """At most `limit` hits, `name:line:text`, over files given as (name, path).

    Raises ToolError: `bad_regex`, `timeout`, `out_of_memory`, `not_readable`; InfraError where no process answers.
    """
    request = {"pattern": pattern, "files": files, "limit": limit, "seconds": SECONDS}
    line = json.dumps(request | {"file_bytes": FILE_BYTES, "hit_chars": HIT_CHARS}).encode() + b"\n"
    for _ in range(PROCESSES + 1):
        with _pool().one() as searcher:
            compiled, answer = searcher.ask(line)
        if answer is not None or searcher.ended not in _KILLED:
            break
    if answer is None:
        raise _death(compiled, searcher.ended)
    if "code" in answer:
        raise ToolError(answer["code"], answer["message"])
    hits: list[str] = answer["hits"]
    return hits


def _death(compiled: bool, ended: int | None) -> ToolError:
    if ended == -signal.SIGPROF:
        return ToolError("timeout", f"the pattern took over {SECONDS:g} s")
    if compiled:
        return ToolError("out_of_memory", "the search took too much memory")
    return ToolError("bad_regex", "the pattern cannot be compiled")


class _Searcher:
    """One process. `ended` is its exit code; None while it lives. Raises InfraError where it does not start."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("regex")
        assert spec is not None and spec.origin is not None
        child, library = Path(__file__).with_name("search_child.py"), Path(spec.origin).parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", str(child), str(library), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._read = b""
        self.ended: int | None = None
        if self._line() != b"ready":
            self.close(kill=True)
            raise InfraError("grep", f"the search process does not start (exit code {self.ended})")

    def ask(self, line: bytes) -> tuple[bool, dict[str, Any] | None]:
        """Whether the pattern compiled, and the answer; None where the process died of it."""
        compiled, answer = False, None
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(line)
            self._requests.flush()
            answer = self._line()
            if answer == b"compiled":
                compiled, answer = True, self._line()
        record: dict[str, Any] | None = json.loads(answer) if answer else None
        if record is None or record["last"]:
            self.close()
        return compiled, record

    def close(self, kill: bool = False) -> None:
        """End the process, if it has not ended."""
        if kill:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        self.ended = self._process.wait()

    def _line(self) -> bytes | None:
        """The next line; None where there is none. Raises InfraError for a process that hangs or says too much."""
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)
        while b"\n" not in self._read:
            if len(self._read) > _ANSWER_BYTES or not waiting.poll(_CLOCK_SECONDS * 1000):
                raise InfraError("grep", "the search process hangs")
            chunk = os.read(self._answers.fileno(), 2**16)
            if not chunk:
                return None
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return line


class _Pool:
    """At most PROCESSES searchers, each lent to one thread at a time."""

    def __init__(self) -> None:
        self._places = threading.Semaphore(PROCESSES)
        self._idle: deque[_Searcher] = deque()

    @contextlib.contextmanager
    def one(self) -> Iterator[_Searcher]:
        with self._places:
            try:
                searcher = self._idle.pop()
            except IndexError:
                searcher = _Searcher()
            try:
                yield searcher
            except BaseException:
                searcher.close(kill=True)
                raise
            if searcher.ended is None:
                self._idle.append(searcher)


_POOLS: dict[int, _Pool] = {}
"""By process: one that was forked off gets its own."""


def _pool() -> _Pool:
    return _POOLS.setdefault(os.getpid(), _Pool())
