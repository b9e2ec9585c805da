"""The command line: parse, call, print where the result lies. Everything else is imported when a command runs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_agent import cli_agents, cli_data
from repo_agent.cli_agents import output
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
suite_app = typer.Typer(help="List, show, validate and split task suites.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(suite_app, name="suite")
cli_agents.add_to(app)
cli_data.add_to(app)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
SUITE = "micro[=SEED], bundled, quixbugs=PATH, humanevalfix=PATH, or a suite file (.toml, .json)."
SuiteArg = Annotated[str, typer.Argument(help=SUITE)]
SuiteOpt = Annotated[str, typer.Option("--suite", help=SUITE)]
HeldOut = Annotated[int | None, typer.Option(help="Groups to hold out; default three eighths, rounded up.")]
OneTask = Annotated[str | None, typer.Option("--task", help="Show what a model gets of one task: goal and files.")]
Unsafe = Annotated[bool, typer.Option("--unsafe-local", help="Run model-written code without containment.")]
IsolatedIo = Annotated[bool, typer.Option("--isolated-io", help="Judge JSON cases outside of the tested process.")]
STOPPED = 130  # the exit code of a command that Ctrl-C ended
KEPT = "finished rollouts are kept, and the same command resumes"


def main() -> None:
    """Run a command. Bad input and failures of ours end in one line on stderr: exit code 2 and 1."""
    warnings.showwarning = _warned
    try:
        app()
    except UserError as error:
        sys.exit(_complain(str(error), 2))
    except InfraError as error:
        sys.exit(_complain(f"{error}\nNothing finished is lost: the same command resumes.", 1))
    except Stopped as stop:
        sys.exit(_complain(f"{stop}; {KEPT}", stop.code))
    except SystemExit as end:
        if end.code == STOPPED:
            _complain(f"stopped; {KEPT}", STOPPED)
        raise


@suite_app.command("list")
def suite_list(as_json: Json = False) -> None:
    """The suites that there are."""
    from repo_agent.tasks import list_suites

    rows = list_suites()
    output(as_json, {"suites": [{"spec": spec, "help": text} for spec, text in rows]}, lambda show: show.pairs(rows))


@suite_app.command("show")
def suite_show(suite: SuiteArg, task: OneTask = None, as_json: Json = False) -> None:
    """The tasks of a suite: id, side of the split, goal. With --task the files of one workspace."""
    from repo_agent.tasks import listing, load_suite, workspace_of

    loaded = load_suite(suite)
    if task:
        output(as_json, one := workspace_of(loaded, task), lambda show: show.fields(one))
    else:
        output(as_json, every := listing(loaded), lambda show: show.table(every["tasks"]))


@suite_app.command("validate")
def suite_validate(
    suite: SuiteArg,
    jobs: Annotated[int, typer.Option(help="Test runs at once.", min=1)] = 2,
    unsafe_local: Unsafe = False,
    isolated_io: IsolatedIo = False,
    as_json: Json = False,
) -> None:
    """Check every task without a model: its fix must pass its tests, and untouched it must fail them."""
    import asyncio
    from dataclasses import asdict

    from repo_agent.sandbox.canary import choose
    from repo_agent.tasks import load_suite
    from repo_agent.tasks.validate import validate

    loaded = load_suite(suite)
    with _show(as_json).bar("grading") as bar:
        result = asdict(asyncio.run(validate(loaded, choose(unsafe_local), jobs, bar.count, isolated_io)))
    output(as_json, result, lambda show: show.validation(result))
    if result["odd"]:
        raise typer.Exit(1)


@suite_app.command("split")
def suite_split(suite: SuiteArg, held_out: HeldOut = None, as_json: Json = False) -> None:
    """Which tasks are for training and which are held out. A group of tasks never falls on both sides."""
    from repo_agent.tasks import load_suite

    split = load_suite(suite).split(held_out)
    record = {"train": list(split.train), "held_out": list(split.held_out)}
    output(as_json, record, lambda show: show.pairs([(side, ", ".join(ids)) for side, ids in record.items()]))


@app.command("eval")
def eval_(
    suite: SuiteOpt,
    split: Annotated[str, typer.Option(help="Which tasks: train, held-out or all.")],
    model: Annotated[str, typer.Option(help="local:BASE[+ADAPTER], openai:NAME[@BASE_URL], together:NAME, or oracle.")],
    out: Annotated[Path, typer.Option(help="Run directory; an unfinished one with the same settings is resumed.")],
    adapter: Annotated[Path | None, typer.Option(help="Directory of the adapter that a server's model runs.")] = None,
    held_out: HeldOut = None,
    protocol: Annotated[str, typer.Option(help="How a call looks on the wire: json, hermes, native.")] = "json",
    constrain: Annotated[bool, typer.Option("--constrain", help="Schema-constrained decoding.")] = False,
    rollouts: Annotated[int, typer.Option(help="Rollouts of each task.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0, max=5)] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Cap on one reply; write_file carries a whole file.", min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="Fixes every draw, whatever --jobs is.")] = 0,
    jobs: Annotated[int, typer.Option(help="Rollouts at once.", min=1)] = 8,
    max_steps: Annotated[int, typer.Option(help="Turns of one rollout.", min=1)] = 16,
    max_bad_turns: Annotated[int, typer.Option(help="Bad turns in a row that end a rollout.", min=1)] = 4,
    observation_chars: Annotated[int, typer.Option(help="Longer outputs of tools are cut.", min=200)] = 4_000,
    read_chars: Annotated[
        int, typer.Option(help="The most that read_file shows, whatever is asked for.", min=200)
    ] = 16_000,
    intro: Annotated[Path | None, typer.Option(help="A text file for the system prompt to begin with.")] = None,
    tests: Annotated[str, typer.Option(help="The model sees test results on_write, on_final or never.")] = "on_write",
    stop_on_pass: Annotated[bool, typer.Option("--stop-on-pass", help="End a rollout when its tests pass.")] = False,
    unsafe_local: Unsafe = False,
    isolated_io: IsolatedIo = False,
    tools: Annotated[str | None, typer.Option(help="Your own tools: a .py file or a module; runs in here.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Stop before this is exceeded; resumed runs count.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="The same in tokens, prompts and replies.")] = None,
    price_in: Annotated[float | None, typer.Option(help="USD per million prompt tokens.", min=0)] = None,
    price_out: Annotated[float | None, typer.Option(help="USD per million reply tokens.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Play live rollouts of one model over one side of a suite, into a run directory of traces.

    Killed or stopped, the same command plays only what is still pending.

    repo-agent eval --suite micro --split train --model oracle --rollouts 3 --out runs/teacher
    """
    given = {name: value for name, value in locals().items() if name != "as_json"}
    from repo_agent.evaluate.live import run_eval
    from repo_agent.evaluate.options import EvalOptions

    with _show(as_json).rollouts(str(out)) as progress:
        result = run_eval(EvalOptions(**given), progress)
    output(as_json, result, lambda show: show.run(out, result))
    left = f"{result['pending']} rollouts are pending"
    if stop := result["stopped"]:
        raise Stopped(f"{stop['reason']}; {left}", stop["code"])
    if result["pending"]:
        why = f" ({result['elsewhere']} claimed by another process)" if result["elsewhere"] else ""
        why += f"; the last error: {progress.last_error}" if progress.last_error else ""
        raise InfraError("eval", f"{left}{why}; see {out / 'errors'}")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="A directory that `build` made.")],
    base: Annotated[str, typer.Option(help="tiny, a folder, or a hub name such as Qwen/Qwen2.5-7B-Instruct.")],
    out: Annotated[Path, typer.Option(help="New adapter directory.")],
    backend: Annotated[str, typer.Option(help="Where to train: local.")] = "local",
    method: Annotated[str, typer.Option(help="sft.")] = "sft",
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate; a tiny model wants far more than a 7B.")] = 1e-5,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 16,
    alpha: Annotated[int, typer.Option(help="LoRA alpha.")] = 32,
    seed: Annotated[int, typer.Option(help="Order of the rows, first weights.")] = 0,
    max_length: Annotated[int, typer.Option(help="Longest row, in tokens; longer ones are dropped, not cut.")] = 8192,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter on a dataset, with TRL and PEFT.

    repo-agent train datasets/first --base Qwen/Qwen2.5-7B-Instruct --out adapters/first
    """
    from repo_agent.train.config import make_config

    config = make_config(base=base, method=method, epochs=epochs, lr=lr, rank=rank, alpha=alpha, seed=seed,
                         max_length=max_length)  # fmt: skip
    if backend != "local":
        raise UserError(f"no backend {backend!r}", "--backend", "Use local")
    from repo_agent.train.local import train_sft

    with _show(as_json).bar("training") as bar:
        record = train_sft(dataset, out, config, bar.step)
    output(as_json, record.model_dump(mode="json"), lambda show: show.adapter(out, record))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; the first without an adapter is the reference.")],
    out: Annotated[Path, typer.Option(help="New report directory.")],
    as_json: Json = False,
) -> None:
    """Compare arms on the same held-out tasks: differences, intervals, verdict, and one report page.

    repo-agent compare runs/base runs/base-constrained runs/tuned --out reports/first
    """
    from repo_agent.report import page, terminal

    result = page.compare(runs, out)
    output(as_json, result.to_json(), lambda show: show.comparison(out, terminal.tables(result), result.text()))


@app.command()
def show(trace: Annotated[Path, typer.Argument(help="A trace file.")]) -> None:
    """Read one rollout in the terminal: what was said, each turn's class, what came back."""
    from repo_agent.show import Show
    from repo_agent.traces.read import read_trace

    Show().trace(read_trace(trace))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Tasks, rollouts and training all follow from it.")] = 0,
    out: Annotated[Path, typer.Option(help="New directory for runs, dataset, adapter and report.")] = Path("demo-out"),
    as_json: Json = False,
) -> None:
    """The whole chain on a tiny model, offline: teacher, dataset, LoRA, held-out comparison, report.

    Prints the plain commands that it runs; by hand they give the same numbers.
    """
    import contextlib
    import os

    from repo_agent.demo.pipeline import run_demo

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if as_json else sys.stdout):
        result = run_demo(seed, out, lambda words: app(words, standalone_mode=False), _show(False).line)
    output(as_json, result, lambda show: None)


def _show(as_json: bool) -> Any:
    from repo_agent.show import Show

    return Show(quiet=as_json)


def _warned(*what: Any, **more: Any) -> None:
    from repo_agent.terminal import warned

    warned(*what, **more)


def _complain(text: str, code: int) -> int:
    from repo_agent.terminal import complain

    complain(text)
    return code


if __name__ == "__main__":
    main()
