"""Sign flips, their interval, and the power behind a plan: against enumeration, SciPy and each other."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from repo_agent.evaluate import stats

STEPS = st.lists(st.integers(-20, 20).map(lambda step: step / 20), min_size=6, max_size=9)


def flips(values: list[float], seed: int = 0) -> stats.Flips:
    return stats.sign_flips([values], seed)[0]


def p_by_enumeration(values: list[float]) -> float:
    sums = [math.fsum(s * v for s, v in zip(signs, values, strict=True)) for signs in _signs(len(values))]
    above = sum(total >= math.fsum(values) - 1e-9 for total in sums) / len(sums)
    below = sum(total <= math.fsum(values) + 1e-9 for total in sums) / len(sums)
    return min(1.0, 2 * above, 2 * below)


def _signs(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


def test_sign_flips_by_hand() -> None:
    assert flips([1, 2, 3])[::2] == (2 / 8, "exact, all 2^3 sign flips")
    assert flips([1, 1, -1]).p == 1.0 and flips([2, 1, -1]).p == 6 / 8 and flips([0, 0]).p == 1.0
    assert flips([0.1] * 5).p == 2 / 32 and flips([0.1] * 6).p == 2 / 64, "six tasks are the least that reach 0.05"


@example([0.0, 0.0, 0.0, 0.0, -0.05, -0.1, -0.1, 0.25])  # sums that should be 0
@given(STEPS)
def test_p_is_that_of_enumeration(values: list[float]) -> None:
    assert flips(values).p == pytest.approx(p_by_enumeration(values))


@given(STEPS)
def test_the_interval_holds_the_shifts_that_the_test_does_not_reject(values: list[float]) -> None:
    interval = flips(values).interval
    assert interval is not None
    for end, outwards in ((interval.low, -1), (interval.high, 1)):
        assert p_by_enumeration([value - end for value in values]) >= 0.05
        assert p_by_enumeration([value - end - outwards * 1e-6 for value in values]) < 0.05


def test_equal_differences_are_an_interval_of_one_point() -> None:
    for values in ([0.3] * 6, [1.0] * 15, [0.3 - 0.2, 0.4 - 0.3, 0.1] * 4, [-0.7] * 40):
        found = flips(values)
        assert found.interval == pytest.approx((values[0], values[0]))
        assert found.interval and found.interval.low == found.interval.high and found.p and found.p < 0.05
    assert flips([0.0] * 8)[:2] == (1.0, (0.0, 0.0))
    assert flips([0.5] * 5).interval is None, "five tasks reject nothing"


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=20), st.data())
def test_a_task_that_gained_more_never_weakens_what_is_shown(values: list[float], data: st.DataObject) -> None:
    """Nor does another task that gained. Above 15 tasks as drawn: the draws depend on the number alone."""
    raised = list(values)
    raised[data.draw(st.integers(0, len(values) - 1))] += data.draw(st.floats(0, 1))
    before, after = flips(values), flips(raised)
    assert _evidence(after, raised) >= _evidence(before, values) - 1e-9
    if len(values) < stats.EXACT_TASKS:
        longer = [*values, data.draw(st.floats(0, 1))]
        assert sum(values) <= 0 or _evidence(flips(longer), longer) >= _evidence(before, values) - 1e-9


def _evidence(found: stats.Flips, values: list[float]) -> float:
    """From strongly negative to strongly positive."""
    assert found.p is not None
    return math.copysign(1 - found.p, math.fsum(values))


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=20))
def test_turning_every_sign_turns_the_result(values: list[float]) -> None:
    found, turned = flips(values), flips([-value for value in values])
    assert found.p == turned.p and found.interval and turned.interval
    assert found.interval == pytest.approx((-turned.interval.high, -turned.interval.low), abs=1e-9)


def test_fifteen_tasks_are_exact_and_more_are_drawn_with_a_seed() -> None:
    assert flips([0.1] * 15).p == 2 / 2**15
    found = flips([1.0] * 60, seed=3)
    assert found.p == pytest.approx(2 / 32_769) and found.how == "32,768 random sign flips, seed 3"
    values = [math.sin(n) for n in range(24)]
    assert flips(values, seed=1) == flips(values, seed=1)
    by_t = scipy_stats.ttest_1samp(values, 0)
    assert flips(values, seed=1).p == pytest.approx(by_t.pvalue, abs=0.02)
    assert flips(values, seed=1).interval == pytest.approx(tuple(by_t.confidence_interval(0.95)), abs=0.05)


def test_rows_of_several_lengths_are_tested_each_by_itself() -> None:
    rows = [[0.1, 0.2, 0.3], [], [1.0] * 20, [0.3, -0.1, 0.2]]
    assert stats.sign_flips(rows) == [flips(row) if row else stats.NOTHING for row in rows]


def test_the_smallest_effect_is_the_one_of_power_80() -> None:
    values = [0.0, 0.2, -0.1, 0.3, 0.1, 0.0, 0.25]
    least, spread = stats.mde(values), stats.sd(values)
    assert least and spread
    shift, edge = least / spread * math.sqrt(7), scipy_stats.t.ppf(0.975, 6)
    power = scipy_stats.nct.sf(edge, 6, shift) + scipy_stats.nct.cdf(-edge, 6, shift)
    assert power == pytest.approx(0.8, abs=1e-3)
    assert stats.mde(values, 0.01) > least, "a stricter test asks for more"


def test_the_planner_finds_the_least_number_of_tasks() -> None:
    values = [0.0, 0.2, -0.1, 0.3, 0.1, 0.0]
    needed = stats.tasks_needed(values, 0.05)
    assert needed and needed > 50 and (stats.tasks_needed(values, 0.01) or 0) > 20 * needed
    spread = stats.sd(values) or 0
    shown = [spread * stats._smallest(tasks, 0.05) for tasks in (needed, needed - 1)]
    assert shown[0] <= 0.05 < shown[1]
    assert stats.tasks_needed(values, 99.0) == stats.MIN_TASKS


@pytest.mark.parametrize("values", [[], [0.3], [0.1, 0.4, 0.2, 0.3, 0.0], [0.5] * 9])
def test_few_tasks_and_no_spread_promise_nothing(values: list[float]) -> None:
    assert stats.mde(values) is None and stats.tasks_needed(values, 0.05) is None
