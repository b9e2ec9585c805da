"""The commands that run other commands in rounds: `flywheel` and `self-train`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repo_agent.cli.options import SUITE, Json, output, shown

if TYPE_CHECKING:
    from repo_agent.flywheel.plan import Plan

_USAGE: Any = typer.BadParameter.__base__
"""What Typer raises for words that a command does not take; it has no public name."""


def flywheel(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A TOML file of rounds; docs/flywheel.md shows one.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands; run none.")] = False,
    as_json: Json = False,
) -> None:
    """Rounds of collect, build or pairs, train, evaluate: each a plain command that is printed before it runs.

    Killed or stopped, the same command resumes and does nothing twice. It ends by a rule on the verdict, a budget, or
    after the last round; rounds.svg shows validity and pass rate of every arm on the held-out tasks.

    repo-agent flywheel rounds.toml --dry-run
    """
    from repo_agent.flywheel.plan import read_plan

    _go(context, read_plan(file), str(file), dry_run, as_json)


def self_train(
    context: typer.Context,
    suite: Annotated[str, typer.Option("--suite", help=SUITE)],
    model: Annotated[str, typer.Option(help="local:BASE or local:BASE+ADAPTER: the model that teaches itself.")],
    out: Annotated[Path, typer.Option(help="Folder for all that it makes; the same command resumes.")],
    keep: Annotated[str, typer.Option(help="Train on calls that executed, or on rollouts that passed.")] = "executed",
    rounds: Annotated[int, typer.Option(help="Rounds, each from the adapter of the one before.", min=1)] = 1,
    rollouts: Annotated[int, typer.Option(help="Rollouts of each train task, under the grammar.", min=1)] = 4,
    held_out_rollouts: Annotated[int, typer.Option(help="Rollouts of each held-out task, free.", min=1)] = 3,
    min_rows: Annotated[int, typer.Option(help="Train only on so many step rows or more.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Of rollouts and training.")] = 0,
    jobs: Annotated[int, typer.Option(help="Rollouts at once.", min=1)] = 8,
    max_tokens: Annotated[int, typer.Option(help="Cap on one reply.", min=1)] = 4096,
    max_steps: Annotated[int, typer.Option(help="Turns of one rollout.", min=1)] = 16,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows; None: as `train` has it.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; None: as `train` has it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands; run none.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on its own rollouts under the grammar: what the grammar enforces becomes a habit.

    It plays the train tasks with `eval --constrain`, so each call is valid by the grammar; those that executed are
    trained on, and the held-out tasks, played without a grammar, say whether it helped. No teacher is needed.

    repo-agent self-train --suite micro --model local:tiny+adapters/first --out self
    """
    from repo_agent.flywheel.plan import make_plan
    from repo_agent.models.resolve import parts

    kind, base, adapter = parts(model)
    training = {name: value for name, value in (("epochs", epochs), ("lr", lr)) if value is not None}
    common = {"route": "self", "keep": keep, "rollouts": rollouts, "min_rows": min_rows}
    record: dict[str, Any] = {
        "out": out,
        "suite": suite,
        "base": base,
        "rollouts": held_out_rollouts,
        "seed": seed,
        "eval": {"jobs": jobs, "max_tokens": max_tokens, "max_steps": max_steps},
        "round": [
            {**common, "name": f"self-{number}", "train": {**training, "seed": seed}} for number in range(1, rounds + 1)
        ],
    }
    if kind != "local" or not base:
        from repo_agent.errors import UserError

        raise UserError("trains itself only where its weights are", f"--model {model}", "Give local:BASE[+ADAPTER]")
    _go(
        context,
        make_plan(record | ({"adapter": adapter} if adapter else {}), "self-train"),
        "self-train",
        dry_run,
        as_json,
    )


def _go(context: typer.Context, plan: Plan, where: str, dry_run: bool, as_json: bool) -> None:
    import contextlib
    import os
    import sys

    from repo_agent.flywheel.stages import every_stage
    from repo_agent.flywheel.wheel import check_plan, turn

    root: Any = context.find_root().command
    check_plan(plan, lambda words: _fault(root, words), where)
    if dry_run:
        lines = [shlex.join(["repo-agent", *stage.words]) for stage in every_stage(plan)]
        output(as_json, {"commands": lines}, lambda show: show.lines(lines))
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if as_json else sys.stdout):
        result = turn(plan, lambda words: root.main(list(words), standalone_mode=False), shown(False).line)
    output(as_json, result, lambda show: _tell(show, plan, result))


def _fault(root: Any, words: Sequence[str]) -> str:
    """What is wrong with a command's options; "" where nothing is."""
    from repo_agent.cli.training import settings_of
    from repo_agent.errors import UserError
    from repo_agent.train.backends import backend_named

    try:
        given = root.commands[words[0]].make_context(words[0], list(words[1:])).params
        if words[0] == "train":
            backend_named(given["backend"])
            settings = settings_of(given)
            if given["backend"] == "together":
                from repo_agent.train.together.backend import refuse_method

                refuse_method(settings)
    except UserError as error:
        return f"{error.what} ({error.remedy})" if error.remedy else error.what
    except _USAGE as error:
        return str(error.format_message())
    return ""


def _tell(show: Any, plan: Plan, result: dict[str, Any]) -> None:
    """What came of the rounds."""
    told = {one["round"]: one for one in result["rounds"]}
    rows = []
    for arm in result["arms"]:
        one = told.get(arm["name"], {})
        shares = {name: _share(arm[key], arm[f"{key}_interval"]) for name, key in _SHOWN.items()}
        verdict = (one.get("verdict") or {}).get("title", "")
        rows.append({"arm": arm["name"], "rows": str(one.get("rows", "")), **shares, "against the arm before": verdict})
    show.table(rows)
    show.lines([f"ended: {result['ended']}", f"plot: {plan.out / 'rounds.svg'}", f"reports: {plan.out / 'reports'}"])


_SHOWN = {"valid": "validity", "passed": "pass_rate"}


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")
