"""How a run went, in one picture: losses, eval_nll, margins, replayed validity, tokens a second, over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repo_agent.train.record import RunRecord


def plot(record: RunRecord, path: Path) -> None:
    """Write the picture as SVG or PNG, by the name; a curve without values is left out."""
    from matplotlib.figure import Figure

    speeds = [(one.step, one.tokens / one.seconds) for one in record.losses if one.tokens and one.seconds]
    curves: dict[str, list[tuple[int, float | None]]] = {
        "loss (nats)": [(one.step, one.loss) for one in record.losses],
        "eval_nll": [(one.step, one.eval_nll) for one in record.evals],
        "margin": [(one.step, one.margin) for one in record.losses],
        "held-back preference loss": [(one.step, one.preference_loss) for one in record.evals],
        "replayed calls valid": [(one.step, one.validity) for one in record.evals],
        "tokens a second": list(speeds),
    }
    known = {label: [(x, y) for x, y in points if y is not None] for label, points in curves.items()}
    shown = {label: points for label, points in known.items() if points}
    figure = Figure(figsize=(3.6 * max(1, len(shown)), 3), layout="constrained")
    axes: Any = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for place, (label, points) in zip(axes, shown.items(), strict=False):
        place.plot([x for x, _ in points], [y for _, y in points], "o-", markersize=3)
        place.set(xlabel="optimizer step", title=label)
        place.set_ylim(0, 1.05 if label.startswith("replayed") else None)
        place.grid(alpha=0.3)
        chose = "held-back preference loss" if "held-back preference loss" in shown else "eval_nll"
        if record.best_step is not None and label == chose:
            place.axvline(record.best_step, linestyle=":", color="grey")
    figure.savefig(path)
