"""The verdict on the pair (validity, pass rate): every cell of its table, and what must hold whatever was played."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_runs import BAD, OK, TUNED, Counts, arm, make_run, runs, varied, weak

from repo_agent.evaluate import stats, verdict
from repo_agent.evaluate.arms import Arm, load_arm
from repo_agent.evaluate.commands import eval_command
from repo_agent.evaluate.comparison import compare_runs
from repo_agent.evaluate.verdict import BETTER, INCONCLUSIVE, SIDES, TITLES, WORSE, Evidence, decide, holm, sides_of

DOCS = Path(__file__).parent.parent / "docs"
LAW = {
    (BETTER, BETTER): "Better",
    (BETTER, INCONCLUSIVE): "Better; pass rate not shown to move",
    (BETTER, WORSE): "Mixed: do not ship",
    (INCONCLUSIVE, BETTER): "Better on pass rate",
    (INCONCLUSIVE, INCONCLUSIVE): "Inconclusive",
    (INCONCLUSIVE, WORSE): "Worse",
    (WORSE, BETTER): "Mixed: do not ship",
    (WORSE, INCONCLUSIVE): "Worse",
    (WORSE, WORSE): "Worse",
}


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("validity", "pass_rate"), LAW)
def test_every_cell_from_runs_on_disk(tmp_path: Path, validity: str, pass_rate: str) -> None:
    good, bad = [["ok", "ok", "final"]] * 9, [["no_call", "ok", "final"]] * 9
    turns = {BETTER: (bad, good), INCONCLUSIVE: (good, good), WORSE: (good, bad)}[validity]
    grades = {BETTER: (False, True), INCONCLUSIVE: (True, True), WORSE: (True, False)}[pass_rate]
    made = [
        make_run(tmp_path / name, [[turn] for turn in played], passed=grade, **more)
        for name, played, grade, more in zip(("base", "tuned"), turns, grades, ({}, {"model": TUNED}), strict=True)
    ]
    comparison = compare_runs(made)
    assert comparison.verdict.title == LAW[validity, pass_rate] == TITLES[comparison.verdict.label]
    assert dict(comparison.verdict.sides) == {"validity": validity, "pass_rate": pass_rate}
    assert comparison.sentence.startswith(LAW[validity, pass_rate])


@pytest.mark.parametrize("side", SIDES)
def test_validity_decides_alone_where_no_outcome_is_known(tmp_path: Path, side: str) -> None:
    good, bad = [["ok", "ok", "final"]] * 9, [["no_call", "ok", "final"]] * 9
    turns = {BETTER: (bad, good), INCONCLUSIVE: (good, good), WORSE: (good, bad)}[side]
    base = make_run(tmp_path / "base", [[turn] for turn in turns[0]], passed=[None] * 9)
    tuned = make_run(tmp_path / "tuned", [[turn] for turn in turns[1]], passed=[None] * 9, model=TUNED)
    comparison = compare_runs([base, tuned])
    assert comparison.verdict.label == f"{side}_alone" and dict(comparison.verdict.sides) == {"validity": side}
    assert comparison.sentence.startswith(f"{side.capitalize()}; pass rate not measured")
    graded = make_run(tmp_path / "graded", [[turn] for turn in turns[1]], passed=True, model=TUNED)
    assert compare_runs([base, graded]).verdict.label == "not_measured"


def test_alone_validity_has_the_whole_five_percent() -> None:
    weak = Evidence(1.0, 0.04)
    assert sides_of(weak) == (BETTER,) and sides_of(weak, Evidence(0.0, 1.0)) == (INCONCLUSIVE, INCONCLUSIVE)


def test_the_printed_table_is_the_one_of_the_docs() -> None:
    printed = verdict.table()
    cells = [line.split("|")[2:5] for line in printed.splitlines()[2:5]]
    assert [[cell.strip() for cell in row] for row in cells] == [
        [LAW[row, column] for column in reversed(SIDES)] for row in reversed(SIDES)
    ]
    assert printed in (DOCS / "compare.md").read_text()


def test_fifteen_of_fifteen_is_better_and_ninety_three_lost_points_are_not_to_be_shipped(tmp_path: Path) -> None:
    none, whole = [[["no_call", "no_call"]]] * 15, [[["ok", "ok"]]] * 15
    made = runs(tmp_path / "all", ("base", none, {"passed": False}), ("tuned", whole, {"model": TUNED}))
    every = compare_runs(made)
    assert every.verdict.label == "better" and every.cheapest is every.tuned
    assert every.verdict.pairs["validity"].interval == (1.0, 1.0) and every.verdict.pairs["validity"].p == 2 / 2**15
    lost = ("tuned", whole, {"model": TUNED, "passed": [t == 0 for t in range(15)]})
    mixed = compare_runs(runs(tmp_path / "mixed", ("base", none, {"passed": True}), lost))
    assert mixed.verdict.label == "mixed" and mixed.cheapest is None
    assert mixed.verdict.pairs["pass_rate"].difference == pytest.approx(-14 / 15)
    assert "do not ship" in mixed.sentence and "Do not ship" in mixed.step.text


def test_under_six_tasks_nothing_is_promised(tmp_path: Path) -> None:
    few = compare_runs(runs(tmp_path / "five", ("base", varied(5, 1), {}), ("tuned", [[OK, OK]] * 5, {"model": TUNED})))
    assert few.sentence == "Too few tasks to show anything; 6 is the least. Here are 5."
    assert (few.verdict.label, few.cheapest) == ("too_few_tasks", None) and "6 or more" in few.step.text
    printed = few.to_json()["verdict"]
    assert printed["validity"]["smallest_effect"] is printed["validity"]["interval"] is None
    assert "smallest effect" not in " ".join(few.text()) and "would show" not in " ".join(few.text())
    six = compare_runs(runs(tmp_path / "six", ("base", varied(6, 1), {}), ("tuned", [[OK, OK]] * 6, {"model": TUNED})))
    assert six.verdict.label == "better_validity" and six.verdict.adjusted["validity"] == pytest.approx(3 / 64)


def test_a_metric_without_a_value_is_not_measured(tmp_path: Path) -> None:
    made = runs(tmp_path, ("base", [[["infra_error"]]] * 7, {}), ("tuned", [[OK]] * 7, {"model": TUNED}))
    comparison = compare_runs(made)
    assert comparison.verdict.label == "not_measured" and "validity" in comparison.sentence
    assert comparison.to_json()["verdict"]["validity"]["difference"] is None and comparison.cheapest is None


# --- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Validity has two thirds of the 5%, the pass rate one; whichever is shown hands its share to the other."""
    assert holm(0.03, 1.0) == pytest.approx((0.045, 1.0)) and holm(1.0, 0.03) == pytest.approx((1.0, 0.09))
    assert holm(0.03, 0.04) == pytest.approx((0.045, 0.045)) and holm(0.04, 0.01) == pytest.approx((0.04, 0.03))
    assert holm(0.9, 0.8) == (1.0, 1.0)


def test_without_any_effect_at_most_one_comparison_in_twenty_says_otherwise() -> None:
    """Exactly, over all signs that seven tasks may have on both metrics; their sums all differ."""
    rows = [[sign * 2.0**task for task, sign in enumerate(signs)] for signs in product((-1, 1), repeat=7)]
    evidence = [Evidence(sum(row), found.p or 0) for row, found in zip(rows, stats.sign_flips(rows), strict=True)]
    sides = [sides_of(validity, pass_rate) for validity, pass_rate in product(evidence, repeat=2)]
    assert 0.04 < sum(two != (INCONCLUSIVE, INCONCLUSIVE) for two in sides) / len(sides) <= 0.05


# --- properties ------------------------------------------------------------------------------------------------------

SCORED, ROLLOUTS = 20, 4
TASKS = st.integers(6, 17)


def played(levels: Sequence[int], passes: Sequence[int], name: str = "arm") -> Arm:
    """An arm with one level (valid turns of 20) and a number of passes (of 4) a task."""
    counts: list[Counts] = [
        [(level, SCORED, k < passed) for k in range(ROLLOUTS)] for level, passed in zip(levels, passes, strict=True)
    ]
    return arm(name, counts, rollouts=ROLLOUTS)


def alike(tasks: int, *ranges: tuple[int, int]) -> st.SearchStrategy[list[int]]:
    """A number a task, all of one of these ranges, so that something is shown often enough."""
    lists = [st.lists(st.integers(*ends), min_size=tasks, max_size=tasks) for ends in ranges]
    return st.one_of(lists)


def strength(side: str) -> int:
    return SIDES.index(side)


@settings(max_examples=60)
@given(st.data())
def test_a_uniform_shift_is_never_weaker_than_the_same_shift_with_noise(data: st.DataObject) -> None:
    tasks = data.draw(TASKS)
    shift, grades = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 2))
    noise = data.draw(st.lists(st.integers(-5, 5), min_size=tasks, max_size=tasks))
    swing = data.draw(st.lists(st.integers(-1, 1), min_size=tasks, max_size=tasks))
    base = played([5] * tasks, [1] * tasks, "base")
    uniform = decide(base, played([5 + shift] * tasks, [1 + grades] * tasks))
    noisy = decide(base, played([5 + shift + n for n in noise], [1 + grades + n for n in swing]))
    assert uniform.label == "better"
    assert all(strength(uniform.sides[metric]) >= strength(noisy.sides[metric]) for metric in verdict.DECIDING)


@settings(max_examples=60)
@given(st.data())
def test_more_of_the_same_evidence_never_makes_a_weaker_label(data: st.DataObject) -> None:
    """The same tasks again, or further tasks that moved at least as far the same way, however far."""
    tasks = data.draw(st.integers(6, 12))
    levels = data.draw(alike(tasks, (0, 20), (9, 10), (6, 7)))
    passes = data.draw(alike(tasks, (0, 4), (2, 3), (0, 1)))
    before = decide(played([8] * tasks, [2] * tasks), played(levels, passes))
    again = decide(played([8] * 2 * tasks, [2] * 2 * tasks), played(levels * 2, passes * 2))
    assert_no_weaker(before, again)
    more = data.draw(st.integers(1, 4))
    far = {BETTER: (20, 4), WORSE: (0, 0), INCONCLUSIVE: (8, 2)}
    level, passed = far[before.sides["validity"]][0], far[before.sides["pass_rate"]][1]
    further = played([*levels, *[level] * more], [*passes, *[passed] * more])
    assert_no_weaker(before, decide(played([8] * (tasks + more), [2] * (tasks + more)), further))


def assert_no_weaker(before: verdict.Decision, after: verdict.Decision) -> None:
    for metric, side in before.sides.items():
        assert side in (INCONCLUSIVE, after.sides[metric]), (metric, before, after)


@settings(max_examples=60)
@given(st.data())
def test_swapping_the_arms_mirrors_the_label(data: st.DataObject) -> None:
    levels, passes = ((0, 20), (3, 5), (15, 17)), ((0, 4), (0, 1), (3, 4))
    a, b = (played(data.draw(alike(9, *levels)), data.draw(alike(9, *passes))) for _ in "ab")
    mirrored(decide(a, b), decide(b, a))
    a, b = (data.draw(any_arm(name, 7, st.integers(0, 2))) for name in "ab")
    mirrored(decide(a, b), decide(b, a))


def mirrored(there: verdict.Decision, back: verdict.Decision) -> None:
    turned = {BETTER: WORSE, WORSE: BETTER, INCONCLUSIVE: INCONCLUSIVE}
    assert {metric: turned[side] for metric, side in there.sides.items()} == dict(back.sides)
    assert there.concluded == back.concluded and (there.concluded or there.label == back.label)
    assert dict(there.adjusted) == pytest.approx(dict(back.adjusted))


def test_the_table_is_total() -> None:
    assert set(verdict.TABLE) == set(product(SIDES, SIDES)) and set(verdict.TABLE.values()) < set(TITLES)


@settings(max_examples=60)
@given(st.data())
def test_any_two_arms_get_one_of_the_labels(data: st.DataObject) -> None:
    tasks = data.draw(st.integers(1, 8))
    a, b = (data.draw(any_arm(name, tasks, st.integers(0, 2))) for name in "ab")
    decision = decide(a, b)
    assert decision.label in TITLES and decision.concluded == bool(decision.sides)


def any_arm(name: str, tasks: int, whole: st.SearchStrategy[int]) -> st.SearchStrategy[Arm]:
    """Up to two turns a rollout, scored or not; of two rollouts a task some are pending."""
    rollout = st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()).map(
        lambda r: (min(r[0], r[1]), r[1], r[2])
    )
    counts = whole.flatmap(lambda n: st.lists(rollout, min_size=n, max_size=n))
    return st.lists(counts, min_size=tasks, max_size=tasks).map(lambda c: arm(name, c, rollouts=2, max_steps=2))


# --- pending rollouts ------------------------------------------------------------------------------------------------


Counted = tuple[int, int, bool]
OUTCOMES: list[Counted] = [(ok, n, passed) for n in range(3) for ok in range(n + 1) for passed in (False, True)]
"""Of a rollout of at most two turns, each valid, invalid or not scored; it passes or not."""


@settings(max_examples=60)
@given(st.data())
def test_no_outcome_of_pending_rollouts_changes_a_label_that_was_given(data: st.DataObject) -> None:
    """By playing every one of them, of two rollouts a task; one task may have both of its own pending."""
    tasks = data.draw(st.integers(6, 8))
    first, second = (data.draw(st.sampled_from(OUTCOMES[4:])) for _ in "ab")
    base_turn = data.draw(st.sampled_from([(0, 2, False), (3, 5, False), (3, 5, True), (2, 2, True)]))
    counts = [[first, second if data.draw(st.booleans()) else first] for _ in range(tasks)]
    base = arm("base", [[base_turn] * 2] * tasks, rollouts=2, max_steps=2)
    held = data.draw(st.sets(st.tuples(st.integers(0, tasks - 1), st.integers(0, 1)), min_size=1, max_size=2))
    missing = {task: [k for k in range(2) if (task, k) in held] for task, _ in held}
    kept = [[c for k, c in enumerate(of_task) if (t, k) not in held] for t, of_task in enumerate(counts)]
    label = decide(base, arm("tuned", kept, rollouts=2, max_steps=2)).label
    assume(label != "unfinished")
    for outcome in product(OUTCOMES, repeat=len(held)):
        played_out = iter(outcome)
        whole = [[*of_task, *(next(played_out) for _ in missing.get(t, []))] for t, of_task in enumerate(kept)]
        assert decide(base, arm("tuned", whole, rollouts=2, max_steps=2)).label == label, outcome


def test_pending_rollouts_that_cannot_change_the_label_leave_it_standing(tmp_path: Path) -> None:
    short = [[OK, OK]] * 8 + [[OK]]
    made = runs(tmp_path, ("base", varied(9, 1), {"passed": False}), ("tuned", short, {"model": TUNED, "wanted": 2}))
    comparison = compare_runs(made)
    assert comparison.verdict.label == "better" and comparison.to_json()["arms"][1]["pending"] == 1
    with_task = runs(tmp_path / "b", ("base", weak(9), {}), ("tuned", [*short[:8], []], {"model": TUNED, "wanted": 2}))
    assert compare_runs(with_task).verdict.label == "better_validity"


def test_pending_rollouts_that_could_change_the_label_leave_it_unfinished(tmp_path: Path) -> None:
    half = [[OK] if t % 2 else [] for t in range(20)]
    made = runs(tmp_path, ("base", varied(20, 2), {}), ("tuned", half, {"model": TUNED, "wanted": 2}))
    comparison = compare_runs(made)
    assert comparison.verdict.label == "unfinished" and comparison.cheapest is None
    assert comparison.sentence == "Unfinished: pending rollouts (tuned 30) could still change the verdict."
    assert comparison.step.commands == (eval_command(load_arm(made[1])),)


def test_an_inconclusive_label_too_waits_for_rollouts_that_could_show_something(tmp_path: Path) -> None:
    same = [[["ok", "no_call"]] * 2] * 7
    for name, tuned, label in (("late", [s[:1] for s in same], "unfinished"), ("whole", same, "inconclusive")):
        made = runs(tmp_path / name, ("base", same, {}), ("tuned", tuned, {"model": TUNED, "wanted": 2}))
        assert compare_runs(made).verdict.label == label


def test_pending_bounds_by_hand() -> None:
    a = arm("a", [[(1, 2, True)], [(1, 2, True)]], rollouts=1, max_steps=4)
    b = arm("b", [[(2, 2, False)], []], rollouts=2, max_steps=4)
    bounds = {metric: verdict.pairs.bounds(a, b, metric) for metric in verdict.DECIDING}
    assert bounds["validity"] == [(2 / 6 - 0.5, 0.5), (-0.5, 0.5)]
    assert bounds["pass_rate"] == [(0.0 - 1, 0.5 - 1), (-1.0, 0.0)]


def test_a_task_that_went_all_the_way_does_not_weaken_what_eight_small_steps_show() -> None:
    """Beside a t-test it would: the spread hides the mean."""
    small = decide(played([8] * 8, [0] * 8), played([9] * 8, [0] * 8))
    more = decide(played([8] * 8 + [0], [0] * 9), played([9] * 8 + [20], [0] * 9))
    assert small.label == more.label == "better_validity"


# --- the cheapest sufficient arm -------------------------------------------------------------------------------------


def three(tmp_path: Path, *arms: tuple[Any, Any]) -> Any:
    """Base, constrained base and tuned: each its rollouts and grades."""
    options: list[dict[str, Any]] = [{}, {"constrain": True}, {"model": TUNED}]
    names = ("base", "base+constrained", "tuned")
    made = [
        make_run(tmp_path / name, turns, passed=passed, **more)
        for name, (turns, passed), more in zip(names, arms, options, strict=True)
    ]
    return compare_runs(made)


def test_the_constrained_base_suffices_when_tuning_adds_nothing_to_it(tmp_path: Path) -> None:
    comparison = three(tmp_path, (weak(9), True), (varied(9, 5), True), (varied(9, 5), True))
    assert comparison.verdict.label == "better_validity" and comparison.cheapest.name == "base+constrained"
    assert "base is worse than tuned on validity" in comparison.why_cheapest


def test_an_arm_that_a_cheaper_one_beats_is_not_recommended(tmp_path: Path) -> None:
    """The constraint mends validity and costs the passes; tuned keeps both."""
    comparison = three(tmp_path, (weak(9), True), ([[OK, OK]] * 9, False), ([[OK, OK]] * 9, True))
    assert comparison.cheapest.name == "tuned" and "base+constrained is worse than" in comparison.why_cheapest
    none = three(tmp_path / "none", (weak(9), True), ([[OK, OK]] * 9, False), ([[OK, OK]] * 9, False))
    assert none.verdict.label == "mixed" and none.cheapest is None and none.recommendation.endswith("none.")
    assert "tuned is worse than base on pass rate" in none.why_cheapest


def test_an_arm_that_was_not_measured_is_not_recommended(tmp_path: Path) -> None:
    comparison = three(tmp_path, (weak(9), True), ([[["infra_error"]] * 2] * 9, True), ([[OK, OK]] * 9, True))
    assert comparison.cheapest.name == "tuned" and "base+constrained is not measured" in comparison.why_cheapest


def test_a_worse_adapter_leaves_the_base(tmp_path: Path) -> None:
    comparison = three(tmp_path, ([[OK]] * 9, True), ([[OK]] * 9, True), ([[BAD]] * 9, False))
    assert comparison.verdict.label == "worse" and comparison.cheapest.name == "base"
