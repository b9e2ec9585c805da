"""The one way to the terminal, for every command: text, tables, bars, JSON, and the line of an error.

What others wrote (models, servers, traces, suites) is shown and never sent: no escape sequence of theirs, no control
character, no mark that turns the direction of writing. Those that Rich itself writes, for colours and bars, pass.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from repo_agent.escape import visible, visible_json


class Terminal(Console):
    """Rich's console over stdout or stderr."""

    def __init__(self, stderr: bool = False, quiet: bool = False, **more: Any) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, emoji=False, **more)

    def render_str(self, text: str, **more: Any) -> Text:
        """Text of a string, measured as it will be shown."""
        return super().render_str(visible(text), **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything that is printed comes through here: tables, bars and their cells too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def say_json(value: Any) -> None:
    """One JSON object on stdout, for `--json`."""
    print(visible_json(value))


def complain(text: str) -> None:
    """An error on stderr."""
    print(f"repo-agent: {visible(text)}", file=sys.stderr)


def warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
) -> None:
    """A library's warning on stderr; takes the place of `warnings.showwarning`."""
    print(visible(warnings.formatwarning(message, category, filename, lineno)), end="", file=sys.stderr)
