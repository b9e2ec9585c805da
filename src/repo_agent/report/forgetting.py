"""The page's part on forgetting: a row a metric, and prompts that only the reference answers well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from repo_agent.evaluate.comparison import Comparison
from repo_agent.evaluate.forgetting import difference_text, figure_text, interval_text
from repo_agent.probes import CHAT, PLAIN, WITH_TOOLS
from repo_agent.probes.answers import METRICS

_EXAMPLES = 2
"""Of each metric."""


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of the table of probes for each metric, as text; none where no arm was probed."""
    found = comparison.forgetting
    return [
        {
            "name": name,
            "figures": [figure_text(metric, found.figure(arm.name, metric)) for arm in comparison.arms],
            "difference": difference_text(pair) if (pair := found.tested.get(metric)) else "—",
            "interval": (interval_text(pair) if pair else "") or "—",
            "p": found.adjusted.get(metric),
            "count": len(pair.values) if pair else "—",
            "forgotten": metric in found.forgotten,
        }
        for metric, name in (METRICS.items() if found.answers else ())
    ]


def changed(comparison: Comparison, cut: Callable[[str], str]) -> list[tuple[str, str, str, str]]:
    """(what is measured, prompt, the reference's reply, tuned's) where only the reference's was good: a few of each."""
    found, names = comparison.forgetting, (comparison.reference.name, comparison.tuned.name)
    shown: list[tuple[str, str, str, str]] = []
    for metric in (metric for metric in found.tested if metric in (WITH_TOOLS, PLAIN, CHAT)):
        known = [{row["id"]: row for row in found.answers[name].rows if row["group"] == metric} for name in names]
        lost = [name for name, difference in found.tested[metric].differences if difference < 0]
        for prompt in lost[:_EXAMPLES]:
            before, after = (cut(str(of_arm[prompt]["reply"])) for of_arm in known)
            shown.append((METRICS[metric], str(known[0][prompt]["prompt"]), before, after))
    return shown
