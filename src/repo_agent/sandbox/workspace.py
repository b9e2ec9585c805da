"""A task's files in a temporary folder: what a model works on."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from repo_agent.messages import digest

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
        self._folder = tempfile.TemporaryDirectory(prefix="repo-agent-", ignore_cleanup_errors=True)
        self.root = Path(self._folder.name).resolve()
        put_files(self.root, self._files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def digest(self) -> str:
        """Hash of every file's path and bytes: equal exactly where the workspaces are."""
        return digest({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in regular_files(self.root)})


def put_files(root: Path, files: Files) -> None:
    """Write files below `root`, making folders as needed; texts as UTF-8, newlines as they are."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def regular_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below `root` as (relative path with `/`, path), sorted by folder; no link is followed."""
    for folder, names, files in os.walk(root):
        names.sort()
        for file in sorted(files):
            path = Path(folder, file)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix(), path
