"""Temporary folders that leave nothing behind, and a task's files in one: what a model works on."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from repo_agent.messages import digest

PREFIX = "repo-agent-run-"
FIRST_UID = 2**30
"""Of runs that root starts: each has a user id of its own, from here on."""
_UNLOCKED_SECONDS = 60.0
"""A folder is younger than this while its process has not locked it yet."""

Files = Mapping[str, str | bytes]
"""Path relative to a root, with `/` → text, or bytes where the file is not UTF-8."""


class Workspace:
    """A temporary folder with the given files; newlines and bytes are kept.

    Use as a context manager; the folder goes at exit, whatever has been put into it.
    """

    root: Path

    def __init__(self, files: Files) -> None:
        self._files = files

    def __enter__(self) -> Workspace:
        self._own = own_folder()
        self.root = self._own.__enter__()
        put_files(self.root, self._files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.__exit__(kind, error, trace)

    def digest(self) -> str:
        """Hash of every file's path and bytes: equal exactly where the workspaces are."""
        return digest({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in regular_files(self.root)})


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that goes at the end, whatever is in it; where this process is killed before, with the next
    process that makes one there.

    It is locked while this process lives, which also holds between containers that share a folder.
    """
    near = tempfile.gettempdir()
    _clear_abandoned(near)
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=near)).resolve()
    try:
        with _opened(root) as handle:
            with contextlib.suppress(OSError):  # a file system without locks; then nobody can take it for abandoned
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield root
    finally:
        clear(root)


@functools.cache
def _clear_abandoned(near: str) -> None:
    """Take away the folders of processes that have been killed."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(near):
            with contextlib.suppress(OSError):
                if entry.name.startswith(PREFIX) and _is_ours(entry.stat(follow_symlinks=False)):
                    with _opened(Path(entry.path)) as handle:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        clear(Path(entry.path))


def _is_ours(state: os.stat_result) -> bool:
    mine = state.st_uid == os.geteuid() or (os.geteuid() == 0 and state.st_uid >= FIRST_UID)
    return mine and time.time() - state.st_ctime > _UNLOCKED_SECONDS


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def put_files(root: Path, files: Files) -> None:
    """Write files below `root`, making folders as needed; texts as UTF-8, newlines as they are."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def clear(folder: Path) -> None:
    """Take a folder away with all that is in it: folders nested thousands deep, and such as may not be entered, too."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        # rm and chmod go down by descriptors; what is left after them, nobody could take away.
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def regular_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below `root` as (relative path with `/`, path), sorted by folder; no link is followed."""
    waiting = [("", str(root))]
    while waiting:
        prefix, folder = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                if entry.is_file(follow_symlinks=False):
                    yield prefix + entry.name, Path(entry.path)
            waiting += [
                (f"{prefix}{entry.name}/", entry.path)
                for entry in reversed(found)
                if entry.is_dir(follow_symlinks=False)
            ]
