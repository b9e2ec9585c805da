"""The commands about task suites: `suite list`, `show`, `validate` and `split`."""

from __future__ import annotations

from typing import Annotated

import typer

from repo_agent.cli.options import SUITE, HeldOut, IsolatedIo, Json, Unsafe, output, shown

app = typer.Typer(help="List, show, validate and split task suites.", no_args_is_help=True, rich_markup_mode=None)
SuiteArg = Annotated[str, typer.Argument(help=SUITE)]
OneTask = Annotated[str | None, typer.Option("--task", help="Show what a model gets of one task: goal and files.")]


@app.command("list")
def suite_list(as_json: Json = False) -> None:
    """The suites that there are."""
    from repo_agent.tasks import list_suites

    rows = list_suites()
    output(as_json, {"suites": [{"spec": spec, "help": text} for spec, text in rows]}, lambda show: show.pairs(rows))


@app.command("show")
def suiteshown(suite: SuiteArg, task: OneTask = None, as_json: Json = False) -> None:
    """The tasks of a suite: id, side of the split, goal. With --task the files of one workspace."""
    from repo_agent.tasks import listing, load_suite, workspace_of

    loaded = load_suite(suite)
    if task:
        output(as_json, one := workspace_of(loaded, task), lambda show: show.fields(one))
    else:
        output(as_json, every := listing(loaded), lambda show: show.table(every["tasks"]))


@app.command("validate")
def suite_validate(
    suite: SuiteArg,
    jobs: Annotated[int, typer.Option(help="Test runs at once.", min=1)] = 2,
    unsafe_local: Unsafe = False,
    isolated_io: IsolatedIo = False,
    as_json: Json = False,
) -> None:
    """Check every task without a model.

    Its fix must pass its tests, and untouched it must fail them.
    """
    import asyncio
    from dataclasses import asdict

    from repo_agent.agent.spec import Limits
    from repo_agent.sandbox.canary import choose
    from repo_agent.tasks import load_suite
    from repo_agent.tasks.validate import validate

    loaded, chars = load_suite(suite), Limits.read_chars
    with shown(as_json).bar("grading") as bar:
        result = asdict(asyncio.run(validate(loaded, choose(unsafe_local), jobs, bar.count, isolated_io, chars)))
    output(as_json, result, lambda show: show.validation(result))
    if result["odd"]:
        raise typer.Exit(1)


@app.command("split")
def suite_split(suite: SuiteArg, held_out: HeldOut = None, as_json: Json = False) -> None:
    """Which tasks are for training and which are held out. A group of tasks never falls on both sides."""
    from repo_agent.tasks import load_suite

    split = load_suite(suite).split(held_out)
    record = {"train": list(split.train), "held_out": list(split.held_out)}
    output(as_json, record, lambda show: show.pairs([(side, ", ".join(ids)) for side, ids in record.items()]))
