"""Options that several commands share, and how a command gives its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
SUITE = "micro[=SEED], bundled, quixbugs=PATH, humanevalfix=PATH, or a suite file (.toml, .json)."
HeldOut = Annotated[int | None, typer.Option(help="Groups to hold out; default three eighths, rounded up.")]
Unsafe = Annotated[bool, typer.Option("--unsafe-local", help="Run model-written code without containment.")]
IsolatedIo = Annotated[bool, typer.Option("--isolated-io", help="Judge JSON cases outside of the tested process.")]


def output(as_json: bool, result: dict[str, Any], text: Callable[[Any], None]) -> None:
    """A command's result: one JSON object, or what `text` does with a `Show`."""
    if as_json:
        from repo_agent.cli.terminal import say_json

        say_json(result)
    else:
        text(shown(False))


def shown(as_json: bool) -> Any:
    """What a person sees while a command runs: nothing where only its JSON is wanted."""
    from repo_agent.cli.show import Show

    return Show(quiet=as_json)
