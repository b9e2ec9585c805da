"""Files of a run directory: made in one stroke, locked between processes, and a disk that refuses."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repo_agent.errors import StoreError


def create(path: Path, text: str) -> bool:
    """Write a new file in one stroke; False where it already exists, also when another process was just first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make space there" if full else ""
        raise StoreError("trace", f"{path} cannot be written ({error.strerror}){remedy}") from error


def lock(fd: int) -> bool:
    """Take the file's lock; False where another process has it. It goes with the process."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_file(fd: int, path: Path) -> bool:
    """Whether `path` still names the open file: its owner may have renamed it before we had the lock."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
