"""Paired statistics over tasks. The unit is the task: a list of per-task differences, one number each.

Paired t and exact sign flips keep their nominal error rate with a dozen tasks, where pooled tests and percentile
bootstraps do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

EXACT_TASKS = 20
DRAWS = 100_000
_CHUNK = 5_000
_ROUNDING = 1e-12
CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8


class Interval(NamedTuple):
    """A confidence interval, or the bounds of a number."""

    low: float
    high: float


def paired_t(differences: Sequence[float]) -> Interval | None:
    """95% interval of the mean difference by Student's t; None for fewer than two tasks or zero variance."""
    spread = sd(differences)
    if not spread:
        return None
    from scipy import stats

    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(CONFIDENCE)
    return Interval(float(low), float(high))


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> tuple[float, str]:
    """Two-sided p of the sign-flip test on the sum of at least one difference, and how it was had.

    Under no effect each task's difference could as well have had the other sign. Exact over all 2^T assignments up to
    20 tasks; above, 100,000 seeded draws, the observed one counted among them.
    """
    if len(differences) <= EXACT_TASKS:
        return _exact(differences), f"exact, all 2^{len(differences)} sign flips"
    return _drawn(differences, seed), f"{DRAWS:,} random sign flips, seed {seed}"


def _exact(differences: Sequence[float]) -> float:
    """All sums by doubling. Fixing the first sign gives half of them; the others are their negatives."""
    import numpy as np

    sums = np.array(differences[:1], dtype=float)
    for difference in differences[1:]:
        sums = np.concatenate([sums + difference, sums - difference])
    return float(np.mean(np.abs(sums) >= _at_least(differences)))


def _drawn(differences: Sequence[float], seed: int) -> float:
    """One random bit a sign; flipping a set of signs takes twice their sum off the total."""
    import numpy as np

    rng = np.random.default_rng(seed)
    values, least, hits = np.array(differences, dtype=float), _at_least(differences), 0
    for _ in range(DRAWS // _CHUNK):
        packed = rng.integers(0, 256, size=(_CHUNK, math.ceil(len(values) / 8)), dtype=np.uint8)
        flipped = np.unpackbits(packed, axis=1, count=len(values)).astype(float)
        hits += int(np.sum(np.abs(values.sum() - 2 * (flipped @ values)) >= least))
    return (hits + 1) / (DRAWS + 1)


def _at_least(differences: Sequence[float]) -> float:
    """The observed |sum|, less what rounding may take from an equal one."""
    return abs(math.fsum(differences)) - _ROUNDING * max(1.0, math.fsum(map(abs, differences)))


def clear_of_zero(sure: Sequence[Interval], maybe: Sequence[Interval] = ()) -> bool:
    """Whether differences anywhere within these bounds must give an interval above 0 and p < 0.05.

    Those of `maybe`, whose bounds must enclose 0, may also be missing. True is a proof; False is none, since the worst
    cases below need not occur together.

    - p: with a sum above 0 it is twice the share of subsets whose sum is not above 0, so it falls as any difference
      grows and is greatest at the low ends; a missing difference counts as 0 does. (Drawn signs: for the same draws.)
    - Interval: it is above 0 if sum > t·√(n/(n-1)·SS). The sum is least at the low ends; SS, the squares about the
      mean, is at most the squares about any one point, each at its farther end; t and n/(n-1) fall as n grows.
    - Equal differences have no interval at all, so no one value may lie within all bounds that are sure.
    """
    n, bounds = len(sure), [*sure, *maybe]
    if n < 2 or max(bound.low for bound in sure) - min(bound.high for bound in sure) <= _ROUNDING:
        return False
    from scipy import stats

    lows = [bound.low for bound in bounds]
    centre = math.fsum(low + high for low, high in bounds) / (2 * len(bounds))
    squares = math.fsum(max(abs(low - centre), abs(high - centre)) ** 2 for low, high in bounds)
    margin = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * math.sqrt(n / (n - 1) * squares)
    return math.fsum(lows) > margin and sign_flip_p(lows)[0] < ALPHA


def mde(differences: Sequence[float]) -> float | None:
    """Smallest true effect that as many tasks with this spread show in four of five runs (two-sided 5%).

    (t_.975 + t_.8)·sd/√T, both quantiles at T-1 degrees of freedom; None for fewer than two tasks or zero variance.
    """
    spread = sd(differences)
    return _mde(spread, len(differences)) if spread else None


def tasks_needed(differences: Sequence[float], effect: float) -> int | None:
    """The number of tasks at which a true `effect` is shown in four of five runs, at the spread seen here.

    None where there is no spread, or no effect.
    """
    spread = sd(differences)
    if not spread or not effect:
        return None
    low, high = 1, 2
    while _mde(spread, high) > abs(effect):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _mde(spread, middle) > abs(effect) else (low, middle)
    return high


def _mde(spread: float, tasks: int) -> float:
    from scipy import stats

    quantiles = stats.t.ppf(1 - ALPHA / 2, tasks - 1) + stats.t.ppf(POWER, tasks - 1)
    return float(quantiles * spread / math.sqrt(tasks))


def sd(differences: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two, 0 where they differ by rounding alone."""
    if len(differences) < 2:
        return None
    if max(differences) - min(differences) <= _ROUNDING * max(1.0, *map(abs, differences)):
        return 0.0
    centre = math.fsum(differences) / len(differences)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in differences) / (len(differences) - 1))
