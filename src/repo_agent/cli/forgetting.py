"""The command `probes`: what a run's model forgot. `eval --probes` does the same behind its rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repo_agent.cli.options import BudgetTokens, BudgetUsd, Json, PriceIn, PriceOut, output, shown


def probes(
    runs: Annotated[list[Path], typer.Argument(help="Runs of `eval` or `replay`; each one's own model is asked.")],
    max_tokens: Annotated[
        int, typer.Option(help="Cap on one reply; a model that thinks aloud needs more.", min=1)
    ] = 192,
    jobs: Annotated[int, typer.Option(help="Prompts at once.", min=1)] = 8,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    as_json: Json = False,
) -> None:
    """Ask what tuning may have cost: prompts that need no call, plain chat, ordinary texts. Then `compare`.

    About 120 short replies for each run, into its folder. Killed or stopped, the same command goes on.

    repo-agent probes runs/base runs/tuned
    """
    given = {name: value for name, value in locals().items() if name not in ("as_json", "runs")}
    results = [probed(run, as_json, **given) for run in runs]

    def text(show: Any) -> None:
        for result in results:
            show_figures(show, result)

    output(as_json, {"runs": results}, text)


def check_probed(model: str) -> None:
    """Raise UserError for a model that cannot be asked."""
    if model == "oracle":
        from repo_agent.errors import UserError

        raise UserError("the oracle is no language model", "--probes", "Leave it out")


def probed(run: Path, as_json: bool, **settings: Any) -> dict[str, Any]:
    """Probe one run's model, with a bar."""
    from repo_agent.rollout.probes import ProbeOptions, run_probes

    with shown(as_json).bar(f"probes of {run}") as bar:
        return run_probes(ProbeOptions(run=run, **settings), bar.count)


def show_figures(show: Any, result: dict[str, Any]) -> None:
    """A line for each metric, and where the answers lie."""
    from repo_agent.evaluate.forgetting import NATS, figure_text
    from repo_agent.probes.answers import METRICS

    def figure(metric: str) -> str:
        count = result["prompts"][metric]
        unit = "texts" if metric == NATS else "prompts"
        return f"{figure_text(metric, result[metric])} of {count} {unit}" if count else "not measured"

    rows = [(name, figure(metric)) for metric, name in METRICS.items()]
    show.pairs([("model", result["model"]), *rows, ("answers", result["file"])])
