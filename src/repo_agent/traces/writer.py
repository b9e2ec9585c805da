"""A claimed rollout's trace, written line by line, then given its name."""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
from pathlib import Path

from repo_agent import redact
from repo_agent.traces import events
from repo_agent.traces.files import written

LARGE = 16 * 2**20
"""Bytes from which a whole trace is compressed."""


class TraceWriter:
    """A claimed rollout. Whatever was emitted before a crash stays in the `.part`.

    Every method raises StoreError where the file cannot be written.
    """

    def __init__(self, fd: int, part: Path, whole: Path, errors: Path) -> None:
        self._file = os.fdopen(fd, "ab", buffering=0)
        self._part, self._whole, self._errors = part, whole, errors
        self.secrets: frozenset[str] = redact.own()
        """Credentials that no line may hold: those of this process, and those of a recorded request."""

    def emit(self, *more: events.Event) -> None:
        """Append events, a line each, and hand them to the operating system in one stroke."""
        data = b"".join(map(self._line, more))
        with written(self._part):
            while data:
                data = data[self._file.write(data) :]

    def _line(self, event: events.Event) -> bytes:
        line = event.line()
        return events.without(event, self.secrets).line() if redact.occur_in(line, self.secrets) else line

    def drop(self) -> None:
        """Leave nothing of it behind; its rollout is pending."""
        self._part.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the rollout; unless it was committed or failed it is abandoned. Closing twice does nothing."""
        self._file.close()

    def commit(self) -> Path:
        """Make the trace whole: on disk first, then under its final name, compressed where it is large. Returns its
        path."""
        if os.fstat(self._file.fileno()).st_size <= LARGE:
            self._move(self._whole)
            return self._whole
        packed = self._whole.with_name(f"{self._whole.name}.gz")
        temporary = packed.with_name(f".{packed.name}.{os.getpid()}")
        with written(packed):
            with self._part.open("rb") as plain, gzip.open(temporary, "wb", compresslevel=6) as target:
                shutil.copyfileobj(plain, target)
            with temporary.open("rb") as target:
                os.fsync(target.fileno())
            temporary.rename(packed)
            self._part.unlink()
        self.close()
        return packed

    def fail(self) -> Path:
        """Put the trace among the errors, so that its rollout will be rerun. Returns its path."""
        with written(self._errors):
            self._errors.mkdir(parents=True, exist_ok=True)
        names = (self._errors / f"{self._whole.stem}-{number}.jsonl" for number in itertools.count())
        path = next(path for path in names if not path.exists())
        self._move(path)
        return path

    def _move(self, target: Path) -> None:
        with written(target):
            os.fsync(self._file.fileno())
            self._part.rename(target)
        self.close()
