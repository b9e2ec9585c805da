"""The commands that make runs and read them: `eval`, `show` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repo_agent.cli.forgetting import check_probed, probed, show_figures
from repo_agent.cli.options import (
    SUITE,
    Adapter,
    BudgetTokens,
    BudgetUsd,
    Constrain,
    HeldOut,
    IsolatedIo,
    Json,
    MaxTokens,
    ObservationChars,
    PriceIn,
    PriceOut,
    ReadChars,
    Seed,
    Temperature,
    Unsafe,
    output,
    shown,
)
from repo_agent.errors import InfraError, Stopped

SuiteOpt = Annotated[str, typer.Option("--suite", help=SUITE)]


def eval_(
    suite: SuiteOpt,
    split: Annotated[str, typer.Option(help="Which tasks: train, held-out or all.")],
    model: Annotated[str, typer.Option(help="local:BASE[+ADAPTER], openai:NAME[@BASE_URL], together:NAME, or oracle.")],
    out: Annotated[Path, typer.Option(help="Run directory; an unfinished one with the same settings is resumed.")],
    adapter: Adapter = None,
    held_out: HeldOut = None,
    protocol: Annotated[str, typer.Option(help="How a call looks on the wire: json, hermes, native.")] = "json",
    constrain: Constrain = False,
    rollouts: Annotated[int, typer.Option(help="Rollouts of each task.", min=1)] = 1,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 4096,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Rollouts at once.", min=1)] = 8,
    max_steps: Annotated[int, typer.Option(help="Turns of one rollout.", min=1)] = 16,
    max_bad_turns: Annotated[int, typer.Option(help="Bad turns in a row that end a rollout.", min=1)] = 4,
    observation_chars: ObservationChars = 4_000,
    read_chars: ReadChars = 16_000,
    intro: Annotated[Path | None, typer.Option(help="A text file for the system prompt to begin with.")] = None,
    tests: Annotated[str, typer.Option(help="The model sees test results on_write, on_final or never.")] = "on_write",
    stop_on_pass: Annotated[bool, typer.Option("--stop-on-pass", help="End a rollout when its tests pass.")] = False,
    unsafe_local: Unsafe = False,
    isolated_io: IsolatedIo = False,
    tools: Annotated[str | None, typer.Option(help="Your own tools: a .py file or a module; runs in here.")] = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    probes: Annotated[bool, typer.Option("--probes", help="Then probe what the model forgot; see `probes`.")] = False,
    as_json: Json = False,
) -> None:
    """Play live rollouts of one model over one side of a suite, into a run directory of traces.

    Killed or stopped, the same command plays only what is still pending.

    repo-agent eval --suite micro --split train --model oracle --rollouts 3 --out runs/teacher
    """
    given = {name: value for name, value in locals().items() if name not in ("as_json", "probes")}
    from repo_agent.rollout.live import run_eval
    from repo_agent.rollout.options import EvalOptions

    if probes:
        check_probed(model)
    with shown(as_json).rollouts(str(out)) as progress:
        result = run_eval(EvalOptions(**given), progress)
    if probes and not result["pending"]:
        spending = {"budget_usd": budget_usd, "budget_tokens": budget_tokens, "price_in": price_in}
        result["probes"] = probed(out, as_json, jobs=jobs, price_out=price_out, **spending)

    def text(show: Any) -> None:
        show.run(out, result)
        if "probes" in result:
            show_figures(show, result["probes"])

    output(as_json, result, text)
    _refuse_pending("eval", result, progress.last_error, out)


def _refuse_pending(command: str, result: dict[str, Any], last_error: str, out: Path) -> None:
    """Raise Stopped or InfraError where rollouts are left."""
    left = f"{result['pending']} rollouts are pending"
    if stop := result["stopped"]:
        raise Stopped(f"{stop['reason']}; {left}", stop["code"])
    if result["pending"]:
        why = f" ({result['elsewhere']} claimed by another process)" if result["elsewhere"] else ""
        why += f"; the last error: {last_error}" if last_error else ""
        raise InfraError(command, f"{left}{why}; see {out / 'errors'}")


def replay(
    paths: Annotated[list[Path], typer.Argument(help="Runs whose contexts are replayed.")],
    model: Annotated[str, typer.Option(help="local:BASE[+ADAPTER], openai:NAME[@BASE_URL] or together:NAME.")],
    out: Annotated[Path, typer.Option(help="Run directory; an unfinished one with the same settings is resumed.")],
    split: Annotated[str, typer.Option(help="Contexts of which tasks: held-out, train or all.")] = "held-out",
    dataset: Annotated[Path | None, typer.Option(help="Take the split from this dataset, not from the runs.")] = None,
    suite: Annotated[str | None, typer.Option("--suite", help=f"Take the split from this suite: {SUITE}")] = None,
    contexts: Annotated[int, typer.Option(help="Contexts of each task, at most; chosen by hash.", min=1)] = 20,
    samples: Annotated[int, typer.Option(help="Next calls to draw in each context.", min=1)] = 1,
    adapter: Adapter = None,
    tools: Annotated[str | None, typer.Option(help="Your tools: a .py file, a module, or schema.json.")] = None,
    constrain: Constrain = False,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 4096,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Calls at once.", min=1)] = 8,
    observation_chars: ObservationChars = 4_000,
    read_chars: ReadChars = 16_000,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    as_json: Json = False,
) -> None:
    """Ask a model for the next call in recorded contexts of held-out tasks, yours or any agent's; judge each.

    A call also runs where the tools are ours and the task is known. No rollout is played on, so hundreds of calls a
    minute, and a model that fails early is asked as often as one that does not. Compare two such runs:

    repo-agent replay runs/mine --model local:BASE+adapters/first --dataset datasets/mine --out runs/replay-tuned
    """
    given = {name: value for name, value in locals().items() if name != "as_json"}
    from repo_agent.cli.held_out import replayed_tasks
    from repo_agent.rollout.replay import ReplayOptions, run_replay

    given["tasks"] = replayed_tasks(paths, split, dataset, suite)
    with shown(as_json).rollouts(str(out)) as progress:
        result = run_replay(ReplayOptions(**given), progress)
    output(as_json, result, lambda show: show.replayed(out, result))
    _refuse_pending("replay", result, progress.last_error, out)


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


def show(trace: Annotated[Path, typer.Argument(help="A trace file.")]) -> None:
    """Read one rollout in the terminal: what was said, each turn's class, what came back."""
    from repo_agent.cli.show import Show
    from repo_agent.traces.read import read_trace

    Show().trace(read_trace(trace))
