"""Options that several commands share, and how a command gives its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
SUITE = "micro[=SEED], bundled, quixbugs=PATH, humanevalfix=PATH, or a suite file (.toml, .json)."
HeldOut = Annotated[int | None, typer.Option(help="Groups to hold out; default three eighths, rounded up.")]
Unsafe = Annotated[bool, typer.Option("--unsafe-local", help="Run model-written code without containment.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="Directory of the adapter that a server's model runs.")]
Constrain = Annotated[bool, typer.Option("--constrain", help="Schema-constrained decoding.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0, max=5)]
MaxTokens = Annotated[int, typer.Option(help="Cap on one reply; write_file carries a whole file.", min=1)]
Seed = Annotated[int, typer.Option(help="Fixes every draw, whatever --jobs is.")]
ObservationChars = Annotated[int, typer.Option(help="Longer outputs of tools are cut.", min=200)]
ReadChars = Annotated[int, typer.Option(help="The most that read_file shows, whatever is asked for.", min=200)]
BudgetUsd = Annotated[float | None, typer.Option(help="Stop before this is exceeded; resumed runs count.")]
BudgetTokens = Annotated[int | None, typer.Option(help="The same in tokens, prompts and replies.")]
PriceIn = Annotated[float | None, typer.Option(help="USD per million prompt tokens.", min=0)]
PriceOut = Annotated[float | None, typer.Option(help="USD per million reply tokens.", min=0)]
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
