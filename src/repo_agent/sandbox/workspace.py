"""A task's files in a temporary folder: what a model works on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
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
        self.root = Path(tempfile.mkdtemp(prefix="repo-agent-")).resolve()
        put_files(self.root, self._files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clear(self.root)

    def digest(self) -> str:
        """Hash of every file's path and bytes: equal exactly where the workspaces are."""
        return digest({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in regular_files(self.root)})


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
