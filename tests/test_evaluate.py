"""Comparison of runs: real run directories, figures by hand, statistics against closed forms and SciPy."""

from __future__ import annotations

import itertools
import json
import math
import random
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from repo_agent.agent import Limits
from repo_agent.errors import UserError
from repo_agent.evaluate import metrics, stats
from repo_agent.evaluate.arms import eval_command, load_arm, load_arms
from repo_agent.evaluate.pairs import pair, settled_label
from repo_agent.evaluate.verdict import compare_runs
from repo_agent.models import Sampling
from repo_agent.tools.verdict import LADDER
from repo_agent.traces import events
from repo_agent.traces.store import INDEX, RunDir

TUNED = "local:tiny+adapters/t"
OK, BAD = ["ok", "ok", "final"], ["missing_arg", "ok", "wrong_type", "final"]
SWAPPED = ["wrapped", "ok", "exec_error", "ok"]


def make_run(
    path: Path,
    rollouts: Sequence[Sequence[Sequence[str]]],
    *,
    model: str = "local:tiny",
    passed: bool | Sequence[bool] = True,
    text: str = "{}",
    wanted: int | None = None,
    **changes: Any,
) -> Path:
    """A run directory as `eval` leaves it: for each task its rollouts, each a list of turn classes.

    `passed` is one grade, or one a task; `wanted` the rollouts asked for, where some are owed; `text` every reply.
    """
    tasks = changes.get("tasks") or [f"t{number:02}" for number in range(len(rollouts))]
    record = {
        "format": 1,
        "arm": path.name,
        "model": model,
        "constrain": False,
        "suite": "micro",
        "suite_hash": "5u1te",
        "split": "held-out",
        "tasks": tasks,
        "task_hashes": dict.fromkeys(tasks, "h"),
        "train": ["x"],
        "held_out": tasks,
        "held_out_groups": len(tasks),
        "rollouts": wanted or max(map(len, rollouts)),
        "seed": 0,
        "protocol": "json",
        "sampling": asdict(Sampling()),
        "limits": asdict(Limits()),
        "contract": "c",
        "isolation": "bubblewrap",
        "versions": {"repo_agent": "0.1.0"},
    } | changes
    run = RunDir.open(path, record)
    for task, of_task, grade in zip(
        tasks, rollouts, [passed] * 99 if isinstance(passed, bool) else passed, strict=False
    ):
        for k, classes in enumerate(of_task):
            _write_trace(run, record, task, k, classes, grade, text)
    return path


def _write_trace(
    run: RunDir, record: dict[str, Any], task: str, k: int, classes: Sequence[str], passed: bool, text: str
) -> None:
    writer = run.claim(task, k)
    assert writer is not None
    shared = {key: record[key] for key in ("suite", "arm", "model", "protocol", "sampling", "seed", "isolation")}
    writer.emit(events.RunStart(task=task, group=task, task_hash="h", rollout=k, system="S", tools=[], **shared))
    for t, name in enumerate(classes):
        writer.emit(events.LlmRequest(t=t, sent=1 + 2 * t, messages=[]))
        call = [{"name": "grep", "args": {}}] if name in ("ok", "exec_error", "missing_arg", "wrong_type") else []
        action = {"t": t, "text": text, "finish_reason": "stop", "turn_class": name, "calls": call}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "seconds": 0.1}
        writer.emit(events.LlmAction(**action, **usage, lenient_ok=name in ("ok", "wrapped"), error=text))
    ended = "final" if classes[-1:] == ["final"] else "max_steps"
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "seconds": 0.1}
    writer.emit(events.RunEnd(ended=ended, passed=passed, steps=len(classes), **usage))
    writer.commit()


def runs(tmp_path: Path, *made: tuple[str, Sequence[Sequence[Sequence[str]]], dict[str, Any]]) -> list[Path]:
    return [make_run(tmp_path / name, rollouts, **options) for name, rollouts, options in made]


def varied(tasks: int, good: int) -> list[list[list[str]]]:
    """`tasks` tasks with two rollouts of six scored turns; `good` valid ones each, every third task one more."""
    return [[["ok"] * (n := good + (t % 3 == 0)) + ["missing_arg"] * (6 - n) + ["final"]] * 2 for t in range(tasks)]


def weak(tasks: int) -> list[list[list[str]]]:
    """`tasks` tasks of almost no valid turn, every second one with one."""
    return [[["missing_arg"] * 6, ["ok"] * (t % 2) + ["missing_arg"] * 5] for t in range(tasks)]


def pair_of(comparison: Any, metric: str) -> Any:
    return next(pair for pair in comparison.pairs if pair.metric == metric)


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_the_figures_of_an_arm_by_hand(tmp_path: Path) -> None:
    """Ratio of sums in a task, then the mean over tasks: not the pooled ratio, not the mean over rollouts."""
    first = [["ok", "ok", "ok", "final"], ["wrapped"]]
    second = [["unknown_tool", "exec_error"], ["infra_error", "early_final"]]
    arm = load_arm(make_run(tmp_path / "a", [first, second], passed=[True, False]))
    assert metrics.by_task(arm, "validity") == {"t00": 3 / 4, "t01": 0.0}
    assert metrics.overall(arm, "validity") == metrics.overall(arm, "executes") == 3 / 8
    assert metrics.overall(arm, "parses") == pytest.approx((3 / 4 + 3 / 3) / 2), "an early final parses"
    assert metrics.overall(arm, "known") == metrics.overall(arm, "arguments") == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert metrics.overall(arm, "lenient") == 1 / 2
    assert metrics.overall(arm, "pass_rate") == 1 / 2
    assert metrics.overall(arm, "mean_calls") == (3 / 2 + 1 / 2) / 2
    assert metrics.overall(arm, "mean_steps") == (5 / 2 + 4 / 2) / 2
    assert arm.classes["ok"] == 3 and sum(arm.classes.values()) == 9


def test_pass_at_k_and_pass_hat_k() -> None:
    assert metrics.pass_at_k(4, 1, 2) == 1 - 3 / 6
    assert metrics.pass_hat_k(4, 3, 2) == 3 / 6
    assert (metrics.pass_at_k(3, 1, 3), metrics.pass_hat_k(3, 2, 3)) == (1.0, 0.0)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_paired_t_of_three_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t(.975, 2) = 4.302653."""
    interval = stats.paired_t([1, 2, 3])
    assert interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def test_mde_of_three_by_hand() -> None:
    """t(.8, 2) = 1.060660 (its closed form: 0.6·√(2/(1-0.36)))."""
    assert stats.mde([1, 2, 3]) == pytest.approx((4.302653 + 1.060660) / math.sqrt(3), abs=1e-6)


def test_no_variance_or_one_task_gives_no_interval() -> None:
    """Equal but for rounding counts as equal."""
    for values in ([0.3], [0.5, 0.5], [0.0] * 4, [0.3 - 0.2, 0.4 - 0.3, 0.1]):
        assert stats.paired_t(values) is None
        assert stats.mde(values) is None


def test_sign_flips_of_three_by_hand() -> None:
    assert stats.sign_flip_p([1, 2, 3]) == (2 / 8, "exact, all 2^3 sign flips")
    assert stats.sign_flip_p([1, 1, -1])[0] == 1.0
    assert stats.sign_flip_p([2, 1, -1])[0] == 6 / 8
    assert stats.sign_flip_p([0, 0])[0] == 1.0
    assert stats.sign_flip_p([0.1] * 5)[0] == 2 / 32, "five tasks cannot reach 0.05"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=7))
def test_sign_flips_agree_with_enumeration(values: list[float]) -> None:
    sums = [abs(math.fsum(s * v for s, v in zip(signs, values, strict=True))) for signs in _signs(len(values))]
    expected = sum(total >= abs(math.fsum(values)) - 1e-9 for total in sums) / len(sums)
    strict = sum(total >= abs(math.fsum(values)) + 1e-9 for total in sums) / len(sums)
    assert strict <= stats.sign_flip_p(values)[0] <= expected


def _signs(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
def test_turning_every_sign_turns_the_result(whole: list[int]) -> None:
    values = [value / 20 for value in whole]
    turned = [-value for value in values]
    assert stats.sign_flip_p(values) == stats.sign_flip_p(turned)
    assert stats.mde(values) == stats.mde(turned)
    interval, mirrored = stats.paired_t(values), stats.paired_t(turned)
    assert (interval is None) == (mirrored is None)
    if interval and mirrored:
        assert interval == pytest.approx((-mirrored.high, -mirrored.low))
        assert interval.low <= sum(values) / len(values) <= interval.high
        by_scipy = scipy_stats.ttest_1samp(values, 0).pvalue
        assert (interval.low > 0 or interval.high < 0) == (by_scipy < 0.05)


def test_twenty_tasks_are_exact_and_more_are_drawn_with_a_seed() -> None:
    assert stats.sign_flip_p([0.1] * 20)[0] == 2 / 2**20
    p, label = stats.sign_flip_p([1.0] * 21, seed=3)
    assert (p, label) == (1 / 100_001, "100,000 random sign flips, seed 3")
    values = [math.sin(n) for n in range(24)]
    drawn = stats.sign_flip_p(values, seed=1)
    assert drawn == stats.sign_flip_p(values, seed=1)
    assert drawn[0] == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_the_planner_finds_the_least_number_of_tasks() -> None:
    values = [0.0, 0.2, -0.1, 0.3]
    spread, needed = stats.sd(values), stats.tasks_needed(values, 0.05)
    assert needed is not None and spread is not None
    assert stats._mde(spread, needed) <= 0.05 < stats._mde(spread, needed - 1)
    assert stats.tasks_needed([0.1, 0.1], 0.05) is None


# --- arms ------------------------------------------------------------------------------------------------------------


def test_an_index_that_is_stale_or_gone_is_rebuilt(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", [[OK, OK], [OK, OK]])
    assert not (path / INDEX).exists()
    assert len(load_arm(path).rows) == 4
    (path / "traces" / "t01" / "1.jsonl").unlink()
    arm = load_arm(path)
    assert (len(arm.rows), arm.owed) == (3, (("t01", 1),))


def test_runs_that_did_other_work_are_refused_by_name(tmp_path: Path) -> None:
    limits = asdict(Limits()) | {"max_steps": 8}
    made = runs(tmp_path, ("a", [[OK]], {}), ("b", [[OK]], {"limits": limits, "seed": 1, "constrain": True}))
    with pytest.raises(UserError, match=r"seed \(0 and 1\); limits\.max_steps \(16 and 8\)") as caught:
        load_arms(made)
    assert "constrain" not in str(caught.value)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    made = runs(tmp_path, ("a", [[OK]], {}), ("b", [[OK], [OK]], {}))
    with pytest.raises(UserError, match=r"tasks \(0 only in the first, 1 in the second\)"):
        load_arms(made)


@pytest.mark.parametrize("given_paths", [["a"], ["a", "a"], ["a", "nowhere"]])
def test_too_few_runs_the_same_run_and_no_run_are_refused(tmp_path: Path, given_paths: list[str]) -> None:
    make_run(tmp_path / "a", [[OK]])
    with pytest.raises(UserError):
        load_arms([tmp_path / name for name in given_paths])


def test_a_run_json_that_lacks_a_key_is_refused_by_name(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", [[OK]])
    record = json.loads((path / "run.json").read_text())
    del record["limits"]
    (path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="lacks limits"):
        load_arm(path)


def test_arms_of_one_name_are_told_apart(tmp_path: Path) -> None:
    made = runs(tmp_path, ("x/a", [[OK]], {"arm": "base"}), ("b", [[OK]], {"arm": "base"}), ("c", [[OK]], {"arm": "t"}))
    assert [arm.name for arm in load_arms(made)] == ["base (a)", "base (b)", "t"]


def test_the_command_that_finishes_a_run(tmp_path: Path) -> None:
    limits = asdict(Limits()) | {"stop_on_pass": True}
    path = make_run(tmp_path / "my run", [[OK]], wanted=2, limits=limits, constrain=True)
    words = shlex.split(eval_command(load_arm(path)))
    assert words[:4] == ["repo-agent", "eval", "--suite", "micro"]
    options = dict(zip(words[2:-2:2], words[3:-2:2], strict=True))
    assert options["--out"] == str(path) and options["--rollouts"] == "2" and options["--max-tokens"] == "4096"
    assert options["--max-steps"] == "16" and options["--tests"] == "on_write" and options["--split"] == "held-out"
    assert words[-2:] == ["--constrain", "--stop-on-pass"] and options["--held-out"] == "1"
    other = make_run(tmp_path / "other", [[OK]], train=["x"] * 9, isolation="unsafe-local")
    assert eval_command(load_arm(other)).endswith("--tests on_write --unsafe-local")
    assert "--held-out 1 " in eval_command(load_arm(other))


def test_paths_are_shown_relative_or_with_a_tilde_that_the_shell_expands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = make_run(tmp_path / "home" / "my run", [[OK]], wanted=2)
    monkeypatch.chdir(tmp_path)
    assert "--out 'home/my run' " in eval_command(load_arm(path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    command = eval_command(load_arm(path))
    assert str(tmp_path) not in command
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True).stdout
    assert str(path) in words.splitlines()


def test_tasks_that_an_adapter_was_trained_on_are_counted(tmp_path: Path) -> None:
    leaky = {"hash": "h", "train_tasks": ["t00", "t02", "x"]}
    made = runs(
        tmp_path,
        ("base", varied(9, 1), {"adapter": None}),
        ("clean", [[OK, OK]] * 9, {"model": TUNED, "adapter": {"hash": "h", "train_tasks": ["x"]}}),
        ("old", [[OK, OK]] * 9, {"model": TUNED}),
        ("tuned", [[OK, OK]] * 9, {"model": TUNED, "adapter": leaky}),
    )
    comparison = compare_runs(made)
    assert [arm["leaked_tasks"] for arm in comparison.to_json()["arms"]] == [0, 0, 0, 2]
    warned = [line for line in comparison.text() if line.startswith("Leak")]
    assert len(warned) == 1 and "of tuned was trained on 2 of these 9 tasks" in warned[0]


# --- verdict ---------------------------------------------------------------------------------------------------------


def test_better_names_its_numbers_and_the_json_has_its_keys(tmp_path: Path) -> None:
    base = ("base", varied(9, 2), {"passed": [t < 2 for t in range(9)]})
    tuned = ("tuned", [[OK, OK]] * 9, {"model": TUNED})
    comparison = compare_runs(runs(tmp_path, base, tuned))
    verdict = comparison.verdict
    assert verdict.label == "better" and verdict.cheapest == "tuned"
    assert verdict.effect == pytest.approx(1 - (3 * 3 / 6 + 6 * 2 / 6) / 9)
    assert "100.0% against 38.9%" in verdict.sentence and "+61.1 points" in verdict.evidence
    assert "preference data" in verdict.next_step
    printed = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert set(printed) == {"arms", "pairs", "verdict"}
    keys = {"name", "validity", "ladder", "lenient", "classes", "pass_rate", "mean_calls", "mean_steps"}
    assert set(printed["arms"][0]) == keys | {"tasks", "rollouts", "owed", "leaked_tasks", "verbatim", "isolation"}
    assert list(printed["arms"][0]["ladder"]) == list(LADDER)
    assert (printed["arms"][0]["tasks"], printed["arms"][0]["rollouts"], printed["arms"][0]["owed"]) == (9, 18, 0)
    assert set(printed["pairs"][0]) == {"a", "b", "metric", "difference", "interval", "p"}
    assert [pair["metric"] for pair in printed["pairs"]] == list(metrics.METRICS)
    assert list(printed["verdict"]) == ["label", "metric", "effect", "mde", "cheapest", "next_step"]
    said = comparison.text()
    assert said[:2] == [verdict.sentence, verdict.evidence] and said[-1] == f"Next step: {verdict.next_step}"
    assert said[2] == f"{comparison.cheapest_is} tuned. {verdict.why_cheapest}" and len(said) == 4


LEARNED = [[["ok"] * 19 + ["missing_arg"] * (t % 3 == 0)] * 2 for t in range(9)]
"""Validity from 95% to 100%, a little below on every third task."""


@pytest.mark.parametrize(
    ("base", "tuned", "base_passes", "passes", "label", "step"),
    [
        (weak(9), LEARNED, 1, 9, "better", "more rollouts pass: generate preference data"),
        (weak(9), LEARNED, 7, 8, "better", "DPO"),
        (weak(9), varied(9, 4), 1, 9, "better", "more rollouts pass: generate preference data"),
        (weak(9), varied(9, 4), 5, 5, "better", "at least half of the rollouts pass: generate preference data"),
        (weak(9), varied(9, 4), 4, 4, "better", "more varied contexts and stop examples"),
        ([[OK, OK]] * 9, LEARNED, 9, 9, "inconclusive", "Both arms have the schema (100.0% and 98.3% valid)"),
        (
            varied(5, 1),
            [[OK, OK]] * 5,
            0,
            0,
            "inconclusive",
            "(DPO), on data that the tuned model generates. That it has",
        ),
        (varied(9, 3), varied(9, 3), 9, 9, "inconclusive", "add tasks"),
    ],
)
def test_the_next_step_follows_from_validity_and_passes(
    tmp_path: Path, base: Any, tuned: Any, base_passes: int, passes: int, label: str, step: str
) -> None:
    grades = [[t < count for t in range(9)] for count in (base_passes, passes)]
    made = ("base", base, {"passed": grades[0]}), ("tuned", tuned, {"model": TUNED, "passed": grades[1]})
    verdict = compare_runs(runs(tmp_path, *made)).verdict
    assert verdict.label == label and step in verdict.next_step
    if step.startswith("Both"):
        assert "DPO" in verdict.next_step and "dd tasks" not in verdict.next_step


def test_worse_names_the_class_that_grew(tmp_path: Path) -> None:
    worse = [[SWAPPED, ["wrapped"] * (1 + t % 3)] for t in range(9)]
    comparison = compare_runs(runs(tmp_path, ("base", varied(9, 5), {}), ("tuned", worse, {"model": TUNED})))
    assert comparison.verdict.label == "worse" and comparison.verdict.effect < 0
    assert "wrapped grew most, from 0.0% to" in comparison.verdict.next_step
    assert comparison.verdict.cheapest == "base"


def test_equal_arms_are_inconclusive_and_base_is_the_cheapest(tmp_path: Path) -> None:
    comparison = compare_runs(runs(tmp_path, ("base", [[OK]] * 8, {}), ("tuned", [[OK]] * 8, {"model": TUNED})))
    verdict = comparison.verdict
    assert (verdict.label, verdict.effect, verdict.mde, verdict.cheapest) == ("inconclusive", 0.0, None, "base")
    pair = pair_of(comparison, "validity")
    assert (pair.interval, pair.p) == (None, 1.0)


def test_the_same_step_on_every_task_has_no_interval_and_so_no_label(tmp_path: Path) -> None:
    comparison = compare_runs(
        runs(tmp_path, ("base", [[["no_call", "ok"]]] * 8, {}), ("tuned", [[OK]] * 8, {"model": TUNED}))
    )
    pair = pair_of(comparison, "validity")
    assert (pair.difference, pair.interval, pair.label) == (0.5, None, "inconclusive")
    assert "no interval" in comparison.verdict.next_step


def test_near_equal_arms_are_inconclusive_with_the_effect_that_could_have_shown(tmp_path: Path) -> None:
    near = [*varied(11, 4), [["ok"] * 6, ["ok"] * 5 + ["no_call"]]]
    comparison = compare_runs(runs(tmp_path, ("base", varied(12, 4), {}), ("tuned", near, {"model": TUNED})))
    verdict = comparison.verdict
    assert verdict.label == "inconclusive" and verdict.mde and verdict.mde > abs(verdict.effect or 0)
    assert "smallest effect that this design could have shown" in verdict.evidence
    assert "Add tasks rather than rollouts" in verdict.next_step


def test_five_tasks_cannot_be_better(tmp_path: Path) -> None:
    comparison = compare_runs(runs(tmp_path, ("base", varied(5, 1), {}), ("tuned", [[OK, OK]] * 5, {"model": TUNED})))
    pair = pair_of(comparison, "validity")
    assert pair.interval.low > 0 and pair.p == 2 / 32
    assert comparison.verdict.label == "inconclusive" and "sign-flip p" in comparison.verdict.next_step


def test_the_constrained_base_is_named_when_tuning_adds_nothing_to_it(tmp_path: Path) -> None:
    good = varied(9, 5)
    made = runs(
        tmp_path,
        ("base", weak(9), {}),
        ("tuned", good, {"model": TUNED}),
        ("base+constrained", good, {"constrain": True}),
    )
    comparison = compare_runs(made)
    assert (comparison.reference.name, comparison.tuned.name) == ("base", "tuned")
    assert (comparison.verdict.label, comparison.verdict.cheapest) == ("better", "base+constrained")
    assert len(comparison.pairs) == 3 * len(metrics.METRICS)


def test_a_task_without_scored_turns_is_null_and_left_out_of_its_pairs(tmp_path: Path) -> None:
    base = [[["final"]], [OK], [BAD], [OK]]
    comparison = compare_runs(runs(tmp_path, ("base", base, {}), ("tuned", [[OK]] * 4, {"model": TUNED})))
    assert metrics.unscored_tasks(comparison.reference) == ["t00"]
    assert metrics.by_task(comparison.reference, "validity")["t00"] is None
    assert pair_of(comparison, "validity").left_out == ("t00",) and len(pair_of(comparison, "validity").values) == 3
    assert pair_of(comparison, "pass_rate").left_out == ()


def test_an_arm_without_any_scored_turn_is_not_measured(tmp_path: Path) -> None:
    comparison = compare_runs(runs(tmp_path, ("base", [[["infra_error"]]] * 3, {}), ("tuned", [[OK]] * 3, {})))
    printed = comparison.to_json()
    assert printed["arms"][0]["validity"] is None and printed["arms"][0]["ladder"]["parses"] is None
    pair = pair_of(comparison, "validity")
    assert (pair.difference, pair.interval, pair.p, pair.label) == (None, None, None, "inconclusive")


# --- owed rollouts ---------------------------------------------------------------------------------------------------


def test_owed_rollouts_leave_the_comparison_incomplete(tmp_path: Path) -> None:
    short = [[OK, OK]] * 8 + [[OK]]
    made = runs(tmp_path, ("base", varied(9, 1), {}), ("tuned", short, {"model": TUNED, "wanted": 2}))
    verdict = compare_runs(made).verdict
    assert (verdict.label, verdict.effect, verdict.cheapest) == ("incomplete", None, None)
    assert verdict.next_step == f"Finish the runs: {eval_command(load_arm(made[1]))}"
    assert compare_runs(made, allow_owed=True).verdict.label == "better"


def test_bounds_count_what_is_owed_against_and_for_an_arm(tmp_path: Path) -> None:
    arm = load_arm(make_run(tmp_path / "a", [[OK], []], wanted=3))
    cap = Limits().max_steps
    assert metrics.by_task(arm, "pass_rate", False) == {"t00": 1 / 3, "t01": 0.0}
    assert metrics.by_task(arm, "pass_rate", True) == {"t00": 1.0, "t01": 1.0}
    assert metrics.by_task(arm, "validity", False) == {"t00": 2 / (2 + 2 * cap), "t01": 0.0}
    assert metrics.by_task(arm, "validity", True) == {"t00": 1.0, "t01": 1.0}
    assert metrics.by_task(arm, "mean_steps", True)["t01"] == cap
    assert metrics.by_task(arm, "validity") == {"t00": 1.0, "t01": None}


def test_a_label_that_owed_rollouts_could_overturn_is_withheld(tmp_path: Path) -> None:
    half = [[OK] if t % 2 else [] for t in range(20)]
    made = runs(tmp_path, ("base", varied(20, 2), {}), ("tuned", half, {"model": TUNED, "wanted": 2}))
    base, tuned = load_arms(made)
    comparison = compare_runs(made, allow_owed=True)
    assert pair_of(comparison, "validity").label == "better"
    assert settled_label(base, tuned, "validity") == comparison.verdict.label == "inconclusive"
    assert "might overturn" in comparison.verdict.next_step


def test_a_label_is_withheld_where_only_a_mixture_of_outcomes_overturns_it(tmp_path: Path) -> None:
    """All owed rollouts bad: better. All good: better. One good among bad ones: the spread hides the effect."""
    base = [[["missing_arg"]] * 2] * 8
    played = [["ok"] + ["missing_arg"] * (t % 2) for t in range(8)]
    bad, good = ["missing_arg"] * Limits().max_steps, ["ok"] * Limits().max_steps

    def ended(name: str, outcomes: list[list[str]]) -> list[Path]:
        tuned = [[first, second] for first, second in zip(played, outcomes, strict=True)]
        return runs(tmp_path / name, ("base", base, {}), ("tuned", tuned, {"model": TUNED}))

    could_be = {
        name: compare_runs(ended(name, outcomes)).verdict.label
        for name, outcomes in {"bad": [bad] * 8, "good": [good] * 8, "mixed": [good] + [bad] * 7}.items()
    }
    assert could_be == {"bad": "better", "good": "better", "mixed": "inconclusive"}
    owing = ("tuned", [[first] for first in played], {"model": TUNED, "wanted": 2})
    base_arm, tuned = load_arms(runs(tmp_path / "owing", ("base", base, {}), owing))
    assert pair(base_arm, tuned, "validity").label == "better" and pair(tuned, base_arm, "validity").label == "worse"
    assert settled_label(base_arm, tuned, "validity") == settled_label(tuned, base_arm, "validity") == "inconclusive"


BOUND = st.tuples(st.floats(0.1, 0.5), st.floats(0, 0.25)).map(lambda b: stats.Interval(b[0], b[0] + b[1]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(BOUND, min_size=6, max_size=9),
    st.lists(st.tuples(st.floats(-0.3, 0), st.floats(0, 0.5)).map(lambda b: stats.Interval(*b)), max_size=1),
    st.randoms(use_true_random=False),
)
def test_what_is_clear_of_zero_stays_so_wherever_the_owed_differences_fall(
    sure: list[stats.Interval], maybe: list[stats.Interval], draw: random.Random
) -> None:
    if not stats.clear_of_zero(sure, maybe):
        return
    for _ in range(12):
        there = [*sure, *(bound for bound in maybe if draw.random() < 0.7)]
        values = [draw.choice([*bound, draw.uniform(*bound)]) for bound in there]
        interval, p = stats.paired_t(values), stats.sign_flip_p(values)[0]
        assert interval is not None and interval.low > 0 and p < 0.05


def test_bounds_clear_of_zero_by_hand() -> None:
    """Wide bounds on one task of nine leave the label; on one of six, or where all could move alike, they do not."""
    narrow = [stats.Interval(0.5 + t / 100, 0.5 + t / 100) for t in range(8)]
    wide, missing = stats.Interval(0.1, 0.9), stats.Interval(-0.5, 0.5)
    assert stats.clear_of_zero([*narrow, wide]) and stats.clear_of_zero(narrow, [missing])
    assert not stats.clear_of_zero(narrow[:5], [stats.Interval(-0.01, 0.01)]), "five tasks may be all there is"
    assert not stats.clear_of_zero([*narrow[:5], stats.Interval(-0.5, 0.9)])
    assert not stats.clear_of_zero([stats.Interval(0.4, 0.6)] * 9), "all could move by 0.5"
    assert not stats.clear_of_zero([stats.Interval(-high, -low) for low, high in [*narrow, wide]])
