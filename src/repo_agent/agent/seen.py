"""What a model was shown: lines of observations, of the goal, and of its own writes; and paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from repo_agent.tools.paths import resolve
from repo_agent.tools.registry import ToolError

MOST = 20
"""Lines that are named."""
_LINE_CHARS = 200
_BYTES = 2**20
_HIT = re.compile(r"[^:\n]+:\d+:(.*)")
"""A line of a grep: path, number, text."""


class Seen:
    """Lines and texts shown so far."""

    def __init__(self) -> None:
        self._lines: set[str] = set()
        self._texts: list[str] = []
        self._paths: set[str] = set()

    def show(self, text: str) -> None:
        """The model was shown a text."""
        self._texts.append(text)
        self.wrote(text)

    def wrote(self, text: str) -> None:
        """The model wrote a text itself: it knows its lines."""
        for line in text.split("\n"):
            self._lines.add(line.rstrip("\r"))
            hit = _HIT.fullmatch(line)
            if hit:
                self._lines.add(hit[1])

    def found(self, args: Iterable[object]) -> None:
        """A call succeeded: the path among its arguments is there."""
        self._paths.update(str(PurePosixPath(word)) for word in args if isinstance(word, str) and len(word) < 1_000)

    def unseen(self, path: str, old: str | None) -> list[str]:
        """What a write to `path` keeps or takes away without having been shown it: the path, where neither it nor its
        folder was shown, and lines of the `old` text (None: there was no file), blank ones aside."""
        found = [] if self._knows(path) else [f"the path {path}"]
        lines = (line.rstrip("\r") for line in (old or "").split("\n"))
        found += [line[:_LINE_CHARS] for line in lines if line.strip() and line not in self._lines]
        return found[:MOST]

    def _knows(self, path: str) -> bool:
        plain = PurePosixPath(path)
        parent = str(plain.parent)
        known = parent == "." or str(plain) in self._paths or parent in self._paths
        return known or self._names((str(plain), f"{parent}/"))

    def _names(self, names: Iterable[str]) -> bool:
        return any(name in text for name in names for text in self._texts)


def text_before(root: Path, rel_path: object) -> str | None:
    """The text of a file that is about to be overwritten; None where there is none that could be shown."""
    try:
        path = resolve(root, str(rel_path))
        with path.open("rb") as file:
            return file.read(_BYTES).decode(errors="replace")
    except (OSError, ToolError, ValueError, RecursionError, MemoryError):
        return None
