"""Runs as evidence: figures by hand, what may be compared, the comparison in words and in JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer
from made_runs import BAD, OK, SWAPPED, TUNED, make_run, pair_of, runs, varied, weak

from repo_agent.agent.spec import Limits
from repo_agent.cli import app
from repo_agent.errors import UserError
from repo_agent.evaluate import metrics
from repo_agent.evaluate.arms import load_arm
from repo_agent.evaluate.commands import eval_command
from repo_agent.evaluate.comparable import load_arms
from repo_agent.evaluate.comparison import compare_runs
from repo_agent.tools.verdict import LADDER
from repo_agent.traces.store import INDEX

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


# --- arms ------------------------------------------------------------------------------------------------------------


def test_an_index_that_is_stale_or_gone_is_rebuilt(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", [[OK, OK], [OK, OK]])
    assert not (path / INDEX).exists()
    assert len(load_arm(path).rows) == 4
    (path / "traces" / "t01" / "1.jsonl").unlink()
    arm = load_arm(path)
    assert (len(arm.rows), arm.pending) == (3, (("t01", 1),))


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


# --- the comparison in words and JSON --------------------------------------------------------------------------------


def test_better_names_its_numbers_and_the_json_has_its_keys(tmp_path: Path) -> None:
    base = ("base", varied(9, 2), {"passed": [t < 2 for t in range(9)]})
    tuned = ("tuned", [[OK, OK]] * 9, {"model": TUNED})
    comparison = compare_runs(runs(tmp_path, base, tuned))
    printed = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert set(printed) == {"arms", "pairs", "forgetting", "verdict"}
    keys = {"name", "validity", "ladder", "lenient", "classes", "pass_rate", "mean_calls", "mean_steps"}
    assert set(printed["arms"][0]) == keys | {"tasks", "rollouts", "pending", "leaked_tasks", "verbatim", "isolation"}
    assert list(printed["arms"][0]["ladder"]) == list(LADDER)
    assert [printed["arms"][0][key] for key in ("tasks", "rollouts", "pending")] == [9, 18, 0]
    assert set(printed["pairs"][0]) == {"a", "b", "metric", "difference", "interval", "p"}
    assert [pair["metric"] for pair in printed["pairs"]] == list(metrics.METRICS)
    verdict = printed["verdict"]
    assert list(verdict) == ["label", "title", "validity", "pass_rate", "cheapest", "next_step", "commands", "warnings"]
    assert (verdict["label"], verdict["title"], verdict["cheapest"]) == ("better", "Better", "tuned")
    assert verdict["validity"]["difference"] == pytest.approx(1 - (3 * 3 / 6 + 6 * 2 / 6) / 9)
    assert verdict["validity"]["side"] == "better" and verdict["pass_rate"]["difference"] == pytest.approx(7 / 9)
    assert verdict["pass_rate"]["adjusted_p"] >= verdict["pass_rate"]["p"] == 2 / 2**7
    assert comparison.text()[:-6] == [
        "Better: tuned emits more valid tool calls (100.0% against 38.9%) and passes more rollouts (100.0% against "
        "22.2%) than base.",
        "Validity: +61.1 points (95% interval +54.2 to +66.7; p = 0.0039, with Holm's correction 0.0059; 9 tasks, "
        "exact, all 2^9 sign flips).",
        "Pass rate: +77.8 points (95% interval +50.0 to +100.0; p = 0.0156; 9 tasks, exact, all 2^9 sign flips).",
        f"Forgetting: not measured for base and tuned: repo-agent probes {tmp_path / 'base'} {tmp_path / 'tuned'}",
        "Cheapest sufficient arm: tuned. base is worse than tuned on validity and pass rate.",
        "Next step: Validity is up and more rollouts pass: generate preference data with the tuned model.",
    ]


LEARNED = [[["ok"] * 19 + ["missing_arg"] * (t % 3 == 0)] * 2 for t in range(9)]
"""Validity from 95% to 100%, a little below on every third task."""


@pytest.mark.parametrize(
    ("base", "tuned", "base_passes", "passes", "label", "step"),
    [
        (weak(9), LEARNED, 1, 9, "better", "more rollouts pass: generate preference data"),
        (weak(9), LEARNED, 7, 8, "better_validity", "DPO"),
        (weak(9), varied(9, 4), 5, 5, "better_validity", "at least half of the rollouts pass: generate preference"),
        (weak(9), varied(9, 4), 4, 4, "better_validity", "more varied contexts and stop examples"),
        (weak(9), LEARNED, 9, 0, "mixed", "they solve fewer tasks"),
        (LEARNED, LEARNED, 0, 9, "better_pass_rate", "generate preference data"),
        ([[OK, OK]] * 9, LEARNED, 9, 9, "inconclusive", "Both arms have the schema (100.0% and 98.3% valid)"),
        (
            [*weak(5), *LEARNED[5:]],
            LEARNED,
            0,
            0,
            "inconclusive",
            "(DPO), on data that the tuned model generates. That",
        ),
        (varied(9, 3), varied(9, 3), 9, 9, "inconclusive", "Add tasks"),
    ],
)
def test_the_next_step_follows_from_validity_and_passes(
    tmp_path: Path, base: Any, tuned: Any, base_passes: int, passes: int, label: str, step: str
) -> None:
    grades = [[t < count for t in range(9)] for count in (base_passes, passes)]
    made = ("base", base, {"passed": grades[0]}), ("tuned", tuned, {"model": TUNED, "passed": grades[1]})
    comparison = compare_runs(runs(tmp_path, *made))
    assert comparison.verdict.label == label and step in comparison.step.text
    if step.startswith("Both"):
        assert "DPO" in comparison.step.text and "dd tasks" not in comparison.step.text


def test_the_next_step_is_commands_to_paste(tmp_path: Path) -> None:
    """With the real names of what is there, and options that the commands take."""
    tuned = {"model": TUNED, "limits": {"max_steps": 9}, "held_out_groups": 4}
    base = {"limits": tuned["limits"], "held_out_groups": 4}
    places = runs(tmp_path / "runs", ("base", weak(9), base), ("tuned", LEARNED, tuned))
    comparison = compare_runs(places)
    assert "preference" in comparison.step.text
    found = [shlex.split(command)[1:] for command in comparison.step.commands]
    assert [words[0] for words in found] == ["eval", "replay", "pairs", "train", "eval", "compare"]
    root: Any = typer.main.get_command(app)
    for words in found:
        if words[0] != "train":
            root.commands[words[0]].make_context(words[0], words[1:])
    collect, again, paired, train, played, compared = (" ".join(words) for words in found)
    assert f"--split train --model {TUNED} --out {places[1]}-train --held-out 4" in collect
    assert f"replay {places[1]}-train " in again and f"pairs {places[1]}-train {places[1]}-train-again " in paired
    assert f"train {tmp_path}/pairs/tuned --base tiny --method dpo --adapter adapters/t --out adapters/t-dpo" == train
    assert f"--split held-out --model {TUNED}-dpo " in played and "--max-steps 9" in played
    assert compared == f"compare {places[1]} {places[1]}-dpo --out {tmp_path}/reports/tuned-dpo"
    assert comparison.text()[-6:] == list(comparison.step.commands)
    served = runs(tmp_path / "served", ("base", weak(9), base), ("x", LEARNED, {**tuned, "model": "openai:x"}))
    assert compare_runs(served).step.commands == ()


def test_worse_names_the_class_that_grew(tmp_path: Path) -> None:
    worse = [[SWAPPED, ["wrapped"] * (1 + t % 3)] for t in range(9)]
    comparison = compare_runs(runs(tmp_path, ("base", varied(9, 5), {}), ("tuned", worse, {"model": TUNED})))
    assert comparison.verdict.label == "worse" and "emits fewer valid tool calls" in comparison.sentence
    assert "wrapped grew most, from 0.0% to" in comparison.step.text
    assert comparison.cheapest is comparison.reference


def test_equal_arms_are_inconclusive_and_base_is_the_cheapest(tmp_path: Path) -> None:
    comparison = compare_runs(runs(tmp_path, ("base", [[OK]] * 8, {}), ("tuned", [[OK]] * 8, {"model": TUNED})))
    assert (comparison.verdict.label, comparison.cheapest) == ("inconclusive", comparison.reference)
    pair = pair_of(comparison, "validity")
    assert (pair.difference, pair.interval, pair.p) == (0.0, (0.0, 0.0), 1.0)


def test_near_equal_arms_are_inconclusive_with_the_effect_that_could_have_shown(tmp_path: Path) -> None:
    near = [*varied(11, 4), [["ok"] * 6, ["ok"] * 5 + ["no_call"]]]
    comparison = compare_runs(runs(tmp_path, ("base", varied(12, 4), {}), ("tuned", near, {"model": TUNED})))
    printed = comparison.to_json()["verdict"]
    assert comparison.verdict.label == "inconclusive"
    assert printed["validity"]["smallest_effect"] > abs(printed["validity"]["difference"])
    assert "smallest effect that this design most likely shows" in comparison.evidence[0]
    assert "Add tasks rather than rollouts" in comparison.step.text


def test_every_two_arms_are_compared_and_the_first_is_the_reference(tmp_path: Path) -> None:
    good = varied(9, 5)
    made = runs(
        tmp_path,
        ("base", weak(9), {}),
        ("tuned", good, {"model": TUNED}),
        ("base+constrained", good, {"constrain": True}),
    )
    comparison = compare_runs(made)
    assert (comparison.reference.name, comparison.tuned.name) == ("base", "tuned")
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
    assert (pair.difference, pair.interval, pair.p) == (None, None, None)


def test_bounds_count_what_is_pending_against_and_for_an_arm(tmp_path: Path) -> None:
    arm = load_arm(make_run(tmp_path / "a", [[OK], []], wanted=3))
    cap = Limits().max_steps
    assert metrics.by_task(arm, "pass_rate", False) == {"t00": 1 / 3, "t01": 0.0}
    assert metrics.by_task(arm, "pass_rate", True) == {"t00": 1.0, "t01": 1.0}
    assert metrics.by_task(arm, "validity", False) == {"t00": 2 / (2 + 2 * cap), "t01": 0.0}
    assert metrics.by_task(arm, "validity", True) == {"t00": 1.0, "t01": 1.0}
    assert metrics.by_task(arm, "mean_steps", True)["t01"] == cap
    assert metrics.by_task(arm, "validity") == {"t00": 1.0, "t01": None}


# --- what differs ----------------------------------------------------------------------------------------------------


def warned(tmp_path: Path, *made: tuple[str, Any, dict[str, Any]]) -> list[str]:
    """What a comparison of these runs warns of, also in its text and its JSON."""
    comparison = compare_runs(runs(tmp_path, *made))
    assert set(comparison.warnings) <= set(comparison.text())
    assert set(comparison.warnings) <= set(comparison.to_json()["verdict"]["warnings"])
    return comparison.warnings


def test_tools_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    ours = {"grep": "1", "read_file": "2", "write_file": "3"}
    theirs = {"grep": "1", "read_file": "9", "cat": "4"}
    made = runs(
        tmp_path, ("a", [[OK]], {"tool_hashes": ours}), ("b", [[OK]], {"tool_hashes": theirs, "protocol": "hermes"})
    )
    with pytest.raises(UserError) as caught:
        load_arms(made)
    for words in (
        'protocol ("json" and "hermes")',
        "tool read_file (another schema)",
        "tool write_file (only in the first)",
        "tool cat (only in the second)",
    ):
        assert words in str(caught.value)
    assert "grep" not in str(caught.value)


def test_a_tools_module_that_was_changed_is_refused(tmp_path: Path) -> None:
    made = [
        (name, [[OK]], {"tools": {"module": name, "hash": code}}) for name, code in (("a", "1"), ("b", "1"), ("c", "2"))
    ]
    a, b, c = runs(tmp_path, *made)
    load_arms([a, b])
    with pytest.raises(UserError, match="another module, or changed in between"):
        load_arms([a, c])


def test_runs_of_older_versions_tell_their_tools_by_their_traces(tmp_path: Path) -> None:
    schema = {"type": "function", "function": {"name": "grep", "description": "", "parameters": {}}}
    made = [make_run(tmp_path / "a", [[OK]]), make_run(tmp_path / "b", [[OK]])]
    trace = next(made[1].glob("traces/*/*.jsonl"))
    trace.write_text(trace.read_text().replace('"tools":[]', f'"tools":[{json.dumps(schema)}]'))
    with pytest.raises(UserError, match=r"tool grep \(only in the second\)"):
        load_arms(made)
    for path in made:
        for trace in path.glob("traces/*/*.jsonl"):
            trace.unlink()
    load_arms(made)
    record = json.loads((made[1] / "run.json").read_text())
    (made[1] / "run.json").write_text(json.dumps(record | {"contract": "d"}))
    with pytest.raises(UserError, match="too old to say which"):
        load_arms(made)


def test_a_clock_among_the_limits_of_an_older_run_does_not_count(tmp_path: Path) -> None:
    older = asdict(Limits()) | {"max_seconds": 600.0}
    load_arms(runs(tmp_path, ("a", [[OK]], {"limits": older}), ("b", [[OK]], {})))


def test_prompts_that_differ_are_printed(tmp_path: Path) -> None:
    made = ("base", [[OK]], {"prompt_hash": "aa"}), ("tuned", [[OK]], {"model": TUNED, "prompt_hash": "bb"})
    assert warned(tmp_path, *made) == ["System prompts differ: base aa, tuned bb."]


def test_a_prompt_that_the_adapter_was_not_trained_on_is_printed(tmp_path: Path) -> None:
    same = {"prompt_hash": "aa"}
    made = ("base", [[OK]], same), ("tuned", [[OK]], {"model": TUNED, **same, "trained_prompts": ["bb", "cc"]})
    assert warned(tmp_path, *made) == ["tuned was trained on other system prompts (bb, cc) than it plays with."]
    known = ("base", [[OK]], same), ("tuned", [[OK]], {"model": TUNED, **same, "trained_prompts": ["bb", "aa"]})
    assert warned(tmp_path / "known", *known) == []


def test_isolation_that_differs_or_changed_when_a_run_was_resumed_is_printed(tmp_path: Path) -> None:
    base = make_run(tmp_path / "base", [[OK]] * 6, isolation="bubblewrap")
    tuned = make_run(tmp_path / "tuned", [[OK]] * 6, model=TUNED, isolation="bubblewrap")
    for trace in sorted(tuned.glob("traces/*/*.jsonl"))[:2]:
        trace.write_text(trace.read_text().replace('"bubblewrap"', '"unsafe-local"', 1))
    assert compare_runs([base, tuned]).warnings == [
        "Isolation differs: base bubblewrap, tuned bubblewrap and unsafe-local.",
        "Isolation changed when tuned was resumed: bubblewrap in 4 rollouts, unsafe-local in 2 rollouts.",
    ]


def test_base_weights_that_differ_are_printed_and_how_their_path_is_written_is_not(tmp_path: Path) -> None:
    for name, other in (("same", "1"), ("other", "2")):
        made = ("base", [[OK]], {"base_hash": "1"}), ("tuned", [[OK]], {"model": "local:./x+t", "base_hash": other})
        assert warned(tmp_path / name, *made) == (["Base weights differ: base 1, tuned 2."] if name == "other" else [])


SERVED = "openai:tuned@http://127.0.0.1:9/v1"


def test_a_served_model_without_its_adapter_carries_the_caveat(tmp_path: Path) -> None:
    made = ("base", [[OK]], {}), ("served", [[OK]], {"model": SERVED, "adapter": None})
    told = warned(tmp_path, *made)
    assert told == ["Adapter unknown: leaks unchecked (served); name it with --adapter."]
    printed = compare_runs([tmp_path / "base", tmp_path / "served"]).to_json()["arms"]
    assert [arm["leaked_tasks"] for arm in printed] == [0, None]


def test_a_served_model_with_its_adapter_counts_as_tuned(tmp_path: Path) -> None:
    """Whatever the order, and its base on the same server ranks before it."""
    adapter = {"hash": "h", "train_tasks": ["t00"], "base": "Qwen/Q"}
    base = ("base", [[OK]] * 7, {"model": "openai:Qwen/Q@http://127.0.0.1:9/v1", "adapter": None})
    tuned = ("tuned", [[OK]] * 7, {"model": SERVED, "adapter": adapter, "adapter_dir": "my adapters/q"})
    comparison = compare_runs(runs(tmp_path, tuned, base))
    assert comparison.tuned.name == "tuned" and comparison.cheapest and comparison.cheapest.name == "base"
    assert any(line.startswith("Leak: the adapter of tuned") for line in comparison.text())
    assert "--adapter 'my adapters/q'" in eval_command(comparison.tuned)


def test_the_same_model_twice_is_a_null_comparison_and_may_have_another_seed(tmp_path: Path) -> None:
    made = ("base", varied(7, 2), {}), ("again", varied(7, 2), {"seed": 1})
    assert warned(tmp_path, *made) == ["Null comparison: the arms are the same model, so every difference is chance."]
    other = runs(tmp_path / "other", ("base", [[OK]], {}), ("tuned", [[OK]], {"seed": 1, "model": TUNED}))
    with pytest.raises(UserError, match=r"seed \(0 and 1\)"):
        compare_runs(other)
