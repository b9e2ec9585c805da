"""One arm against another on one metric, paired over tasks, and the label that this earns.

`better` and `worse` need a 95% interval on one side of 0 **and** a sign-flip p below 0.05; all else is `inconclusive`.
"""

from __future__ import annotations

from dataclasses import dataclass

from repo_agent.evaluate import metrics, stats
from repo_agent.evaluate.arms import Arm


@dataclass(frozen=True)
class Pair:
    """Arm `b` against arm `a` on one metric, paired over the tasks that have a value in both."""

    a: str
    b: str
    metric: str
    difference: float | None
    """Mean over tasks of b - a; None where no task has both values."""
    interval: stats.Interval | None
    p: float | None
    p_label: str
    differences: tuple[tuple[str, float], ...]
    """(task, b - a), in suite order."""
    left_out: tuple[str, ...]
    """Tasks without a value in one of the arms."""

    @property
    def label(self) -> str:
        """better, worse or inconclusive; `more` or `fewer` for calls and steps, where neither is better by itself."""
        if (
            self.interval is None
            or self.p is None
            or self.p >= stats.ALPHA
            or self.interval.low <= 0 <= self.interval.high
        ):
            return "inconclusive"
        up, down = ("more", "fewer") if self.metric in metrics.PER_ROLLOUT else ("better", "worse")
        return up if self.interval.low > 0 else down

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.differences]

    @property
    def mde(self) -> float | None:
        return stats.mde(self.values)


def pair(a: Arm, b: Arm, metric: str) -> Pair:
    """Compare two arms on a metric, over the rollouts that are there."""
    left, right = metrics.by_task(a, metric), metrics.by_task(b, metric)
    found = []
    for task in left:
        before, after = left[task], right[task]
        if before is not None and after is not None:
            found.append((task, after - before))
    values = [value for _, value in found]
    p, p_label = stats.sign_flip_p(values) if values else (None, "no task has both values")
    left_out = tuple(task for task in left if task not in dict(found))
    interval = stats.paired_t(values)
    return Pair(a.name, b.name, metric, metrics.mean(values), interval, p, p_label, tuple(found), left_out)


def settled_label(a: Arm, b: Arm, metric: str) -> str:
    """The label of b against a: better or worse only if the rollouts that are owed could not change it, whatever
    each of them would do within the limits (see `stats.clear_of_zero`)."""
    seen = pair(a, b, metric)
    if seen.label == "inconclusive" or not (a.owed or b.owed):
        return seen.label
    bounds = difference_bounds(a, b, metric)
    if (seen.difference or 0) < 0:
        bounds = {task: stats.Interval(-high, -low) for task, (low, high) in bounds.items()}
    measured = dict(seen.differences)
    sure = [bound for task, bound in bounds.items() if task in measured]
    maybe = [bound for task, bound in bounds.items() if task not in measured]
    return seen.label if stats.clear_of_zero(sure, maybe) else "inconclusive"


def difference_bounds(a: Arm, b: Arm, metric: str) -> dict[str, stats.Interval]:
    """Least and greatest b - a that each task could come to once nothing is owed; both are its difference where it
    owes nothing. A task that has no value yet in an arm that owes it may also stay without; its bounds enclose 0."""
    low_a, high_a = (metrics.by_task(a, metric, bound) for bound in (False, True))
    low_b, high_b = (metrics.by_task(b, metric, bound) for bound in (False, True))
    found = {}
    for task in low_a:
        low, less, high, more = low_b[task], high_a[task], high_b[task], low_a[task]
        if low is not None and less is not None and high is not None and more is not None:
            found[task] = stats.Interval(low - less, high - more)
    return found
