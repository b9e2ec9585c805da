"""The command line: parse, call, print where the result lies. Everything else is imported when a command runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_agent.cli import agents, data, flywheel, forgetting, runs, suites, training
from repo_agent.cli.options import Json, output, shown
from repo_agent.errors import InfraError, Stopped, UserError

app = typer.Typer(
    name="repo-agent",
    help="Make a cheap model emit valid tool calls in your agent's schema, and prove it on tasks it never saw.\n\n"
    "suite -> [eval] -> runs -> [build] -> dataset -> [train] -> adapter -> [eval] -> runs -> [compare] -> report\n\n"
    "Start with: repo-agent demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
STOPPED = 130  # the exit code of a command that Ctrl-C ended
KEPT = "finished rollouts are kept, and the same command resumes"


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"repo-agent {version('repo-agent')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run a command. Bad input and failures of ours end in one line on stderr: exit code 2 and 1."""
    warnings.showwarning = _warned
    try:
        app()
    except UserError as error:
        sys.exit(_complain(str(error), 2))
    except InfraError as error:
        sys.exit(_complain(f"{error}\nNothing finished is lost: {error.resume or 'the same command resumes'}.", 1))
    except Stopped as stop:
        sys.exit(_complain(f"{stop}; {stop.resume or KEPT}", stop.code))
    except SystemExit as end:
        if end.code == STOPPED:
            _complain(f"stopped; {KEPT}", STOPPED)
        raise


def demo(
    seed: Annotated[int, typer.Option(help="Tasks, rollouts and training all follow from it.")] = 0,
    out: Annotated[Path, typer.Option(help="New directory for all that it makes, or one to go on with.")] = Path(
        "demo-out"
    ),
    as_json: Json = False,
) -> None:
    """The whole chain on a tiny model, offline: teacher, dataset, LoRA, held-out comparison, report.

    Prints the plain commands that it runs; by hand they give the same numbers.
    """
    import contextlib
    import os

    from repo_agent.demo.pipeline import run_demo

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if as_json else sys.stdout):
        result = run_demo(seed, out, lambda words: app(words, standalone_mode=False), shown(False).line)
    output(as_json, result, lambda show: None)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "serve": agents.serve,
    "record": agents.record,
    "import": agents.import_,
    "mark": agents.mark,
    "tools": agents.tools,
    "eval": runs.eval_,
    "replay": runs.replay,
    "show": runs.show,
    "inventory": data.inventory,
    "build": data.build,
    "audit": data.audit,
    "pairs": data.pairs,
    "train": training.train,
    "probes": forgetting.probes,
    "compare": runs.compare,
    "self-train": flywheel.self_train,
    "flywheel": flywheel.flywheel,
}
"""In the order of the way through them; the first line of each one's text is its help in the list."""
for name, command in COMMANDS.items():
    app.command(name, short_help=str(command.__doc__).split("\n")[0])(command)
app.add_typer(suites.app, name="suite")
app.add_typer(training.adapter, name="adapter")


def _warned(*what: Any, **more: Any) -> None:
    from repo_agent.cli.terminal import warned

    warned(*what, **more)


def _complain(text: str, code: int) -> int:
    from repo_agent.cli.terminal import complain

    complain(text)
    return code
