"""A comparison as tables for a terminal of 80 columns; long names are folded, figures never."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from repo_agent.evaluate import metrics
from repo_agent.evaluate.advice import percent
from repo_agent.evaluate.comparison import Comparison
from repo_agent.evaluate.forgetting import difference_text, figure_text, interval_text
from repo_agent.evaluate.pairs import Pair
from repo_agent.evaluate.verdict import DECIDING
from repo_agent.probes.answers import METRICS


def tables(comparison: Comparison) -> list[Table]:
    """The arms, each two of them on what decides, and what tuning cost where that was probed."""
    deciding = _pairs([pair for pair in comparison.pairs if pair.metric in DECIDING])
    return [_arms(comparison), deciding, *([_probes(comparison)] if comparison.forgetting.tested else [])]


def _arms(comparison: Comparison) -> Table:
    table = _table("arm", "valid", "passed", "calls", "steps", "tasks", "rollouts", "pending")
    for arm in comparison.arms:
        shares = [percent(metrics.overall(arm, name)) for name in DECIDING]
        counts = [plain(metrics.overall(arm, name)) for name in metrics.PER_ROLLOUT]
        sizes = [str(len(part)) for part in (arm.tasks, arm.rows, arm.pending)]
        table.add_row(escape(arm.name), *shares, *counts, *sizes)
    return table


def _pairs(pairs: Sequence[Pair]) -> Table:
    table = _table("difference, in points", "of", "mean", "95% interval", "p")
    table.columns[1].justify = "left"
    for pair in pairs:
        name = f"{pair.b} - {pair.a}" if pair.metric == DECIDING[0] else ""
        mean = "—" if pair.difference is None else f"{100 * pair.difference:+.1f}"
        interval = f"{100 * pair.interval.low:+.1f} to {100 * pair.interval.high:+.1f}" if pair.interval else "—"
        table.add_row(escape(name), pair.metric.replace("_", " "), mean, interval, bare_p(pair.p))
    return table


def _probes(comparison: Comparison) -> Table:
    """Both arms of the verdict on each metric of the probes, differences in points and nats; p after Holm's method."""
    table, found = _table("probes", "reference", "tuned", "change", "95% interval", "p"), comparison.forgetting
    for metric, name in METRICS.items():
        figures = [
            figure_text(metric, found.figure(arm.name, metric)) for arm in (comparison.reference, comparison.tuned)
        ]
        pair = found.tested.get(metric)
        tested = (difference_text(pair).partition(" ")[0], interval_text(pair) or "—") if pair else ("—", "—")
        table.add_row(name, *figures, *tested, bare_p(found.adjusted.get(metric)))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def plain(value: float | None) -> str:
    """A figure that is no share; an em dash for what was not measured."""
    return "—" if value is None else f"{value:.2f}"


def bare_p(p: float | None) -> str:
    """A p for a table; below the resolution of the draws just that it is."""
    if p is None:
        return "—"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
