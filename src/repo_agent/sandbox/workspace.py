"""A task's files in a temporary folder: what a model works on."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from repo_agent.messages import digest


class Workspace:
    """A temporary folder with the given files: path relative to the root → text, newlines kept, UTF-8.

    Use as a context manager; the folder goes at exit, whatever has been put into it.
    """

    root: Path

    def __init__(self, files: Mapping[str, str]) -> None:
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


def put_files(root: Path, files: Mapping[str, str]) -> None:
    """Write texts below `root`, making folders as needed; newlines as they are."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def regular_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below `root` as (relative path with `/`, path), sorted by folder; no link is followed."""
    for folder, names, files in os.walk(root):
        names.sort()
        for file in sorted(files):
            path = Path(folder, file)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix(), path
