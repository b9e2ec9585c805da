"""One arm against another on each metric, paired over tasks: differences, interval and p. Labels are in `verdict`."""

from __future__ import annotations

from collections.abc import Sequence
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
    """95%; None for fewer than 6 tasks."""
    p: float | None
    p_label: str
    differences: tuple[tuple[str, float], ...]
    """(task, b - a), in suite order."""
    left_out: tuple[str, ...]
    """Tasks without a value in one of the arms."""

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.differences]

    @property
    def clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


def compare_on(a: Arm, b: Arm, names: Sequence[str] = metrics.METRICS) -> dict[str, Pair]:
    """Two arms on each of these metrics, over the rollouts that are there."""
    found = {name: _differences(a, b, name) for name in names}
    flips = stats.sign_flips([list(values.values()) for values in found.values()])
    return {
        name: Pair(
            a=a.name,
            b=b.name,
            metric=name,
            difference=metrics.mean(values.values()),
            interval=flip.interval,
            p=flip.p,
            p_label=flip.how,
            differences=tuple(values.items()),
            left_out=tuple(task for task in a.tasks if task not in values),
        )
        for (name, values), flip in zip(found.items(), flips, strict=True)
    }


def _differences(a: Arm, b: Arm, metric: str) -> dict[str, float]:
    """Task → b - a, where both have a value."""
    left, right = metrics.by_task(a, metric), metrics.by_task(b, metric)
    pairs = {task: (left[task], right[task]) for task in left}
    return {task: after - before for task, (before, after) in pairs.items() if before is not None and after is not None}


def bounds(a: Arm, b: Arm, metric: str) -> list[stats.Interval]:
    """Least and greatest b - a that each task can come to once nothing is pending; the two are equal where a task has
    nothing pending. A task that has no value yet may also stay without one; its bounds enclose 0, which counts alike.
    """
    low_a, high_a = (metrics.by_task(a, metric, bound) for bound in (False, True))
    low_b, high_b = (metrics.by_task(b, metric, bound) for bound in (False, True))
    found = []
    for task in low_a:
        low, less, high, more = low_b[task], high_a[task], high_b[task], low_a[task]
        if low is not None and less is not None and high is not None and more is not None:
            found.append(stats.Interval(low - less, high - more))
    return found
