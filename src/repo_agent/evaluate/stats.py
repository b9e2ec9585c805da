"""Paired statistics over tasks. The unit is the task: a list of per-task differences, one number each.

One test says it all: sign flips over tasks, which keep their nominal error rate with a dozen tasks where pooled tests
and percentile bootstraps do not. The interval holds the shifts that this test does not reject, so p and interval never
disagree. Both only grow clearer when a difference grows, and equal differences give the point that they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

MIN_TASKS = 6
"""With fewer, no outcome reaches p < 0.05: the smallest p is 2/2^tasks."""
EXACT_TASKS = 15
FLIPS = 2**EXACT_TASKS
ALPHA, POWER = 0.05, 0.8
_BATCH, _DIGITS = 1_000, 12


class Interval(NamedTuple):
    """A confidence interval, or the bounds of a number."""

    low: float
    high: float


class Flips(NamedTuple):
    """What sign flips say of the mean difference."""

    p: float | None
    """Two-sided: how often the sum would lie as far from 0 if each task's difference could have had the other sign.
    None where there is no task."""
    interval: Interval | None
    """95%; None for fewer than MIN_TASKS, where no shift is rejected."""
    how: str


NOTHING = Flips(None, None, "no task has a value in both arms")


def sign_flips(rows: Sequence[Sequence[float]], seed: int = 0) -> list[Flips]:
    """The test of each row of differences: all 2^T assignments of signs up to 15 tasks, above that 32,768 seeded ones,
    the same for every row of that length, with the observed one counted among them."""
    found: dict[int, Flips] = {}
    for tasks in sorted({len(row) for row in rows} - {0}):
        alike = [number for number, row in enumerate(rows) if len(row) == tasks]
        found |= dict(zip(alike, _flipped([rows[number] for number in alike], tasks, seed), strict=True))
    return [found.get(number, NOTHING) for number in range(len(rows))]


def _flipped(rows: list[Sequence[float]], tasks: int, seed: int) -> Iterator[Flips]:
    import numpy as np
    from scipy.stats import permutation_test

    # The row of ones rides along under the same flips: its sum tells how many signs were turned. SciPy wants two
    # observations; the one of a single task gets a 0 beside it, which changes nothing.
    data = np.array([[*row, *[0.0] * (2 - tasks)] for row in [*rows, [1.0] * tasks]])
    result = permutation_test(
        (data,), _total, permutation_type="samples", vectorized=True, n_resamples=FLIPS, batch=_BATCH, axis=-1,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    exact = tasks <= EXACT_TASKS
    how = f"exact, all 2^{tasks} sign flips" if exact else f"{FLIPS:,} random sign flips, seed {seed}"
    turned = np.rint((tasks - result.null_distribution[:, -1]) / 2)
    for p, total, sums in zip(result.pvalue, result.statistic[:-1], result.null_distribution.T, strict=False):
        yield Flips(float(p), _interval(total, sums, turned, tasks, exact), how)


def _total(values: Any, axis: int) -> Any:
    """Rounded: SciPy takes sums for ties within a share of the observed one, and one that should be 0 has no share."""
    return values.sum(axis=axis).round(_DIGITS)


def _interval(total: Any, sums: Any, turned: Any, tasks: int, exact: bool) -> Interval | None:
    """The shifts δ that the test of `differences - δ` does not reject at 5%. `sums` are those after each flip, of as
    many signs as `turned` says.

    Turning the signs of the set A leaves the sum no smaller exactly where the mean over A is at most δ, so the ends are
    order statistics of the means over random sets of tasks (J. A. Hartigan, JASA 64, 1969: typical values).
    """
    import numpy as np

    some = turned > 0
    observed = 0 if exact else 1  # drawn flips count the observed signs once more
    rank = math.ceil(ALPHA / 2 * (len(sums) + observed)) - observed - int(np.sum(~some))
    if tasks < MIN_TASKS or rank < 1:
        return None
    means = np.partition((total - sums[some]) / 2 / turned[some], [rank - 1, -rank])
    return Interval(*(round(float(end), _DIGITS) + 0.0 for end in (means[rank - 1], means[-rank])))


def mde(differences: Sequence[float], alpha: float = ALPHA) -> float | None:
    """Smallest true effect that as many tasks with this spread would show in four of five runs, by the power of the
    paired t-test, which sign flips match closely; None for fewer than MIN_TASKS, or without spread."""
    spread = sd(differences)
    return spread * _smallest(len(differences), alpha) if spread and len(differences) >= MIN_TASKS else None


@lru_cache(maxsize=1024)
def _smallest(tasks: int, alpha: float) -> float:
    """In standard deviations."""
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().solve_power(nobs=tasks, alpha=alpha, power=POWER))


def tasks_needed(differences: Sequence[float], effect: float, alpha: float = ALPHA) -> int | None:
    """The number of tasks that would show a true `effect` in four of five runs, at the spread seen here.

    None for fewer than MIN_TASKS, without spread, or for no effect.
    """
    from statsmodels.stats.power import TTestPower

    spread = sd(differences)
    if not spread or not effect or len(differences) < MIN_TASKS:
        return None
    size = min(abs(effect) / spread, 3.0)  # beyond, MIN_TASKS suffice anyway
    needed = float(TTestPower().solve_power(effect_size=size, alpha=alpha, power=POWER))
    return max(MIN_TASKS, math.ceil(needed))


def sd(differences: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two, 0 where they differ by rounding alone."""
    if len(differences) < 2:
        return None
    if max(differences) - min(differences) <= 10**-_DIGITS * max(1.0, *map(abs, differences)):
        return 0.0
    centre = math.fsum(differences) / len(differences)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in differences) / (len(differences) - 1))
