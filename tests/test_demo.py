"""The whole chain on the shipped tiny model, as a user runs it, and a placebo that must not look like a cure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from placebo import swap_targets

from repo_agent.demo.pipeline import commands
from repo_agent.traces.read import read_trace

pytestmark = pytest.mark.slow


def command(*words: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "repo_agent.cli", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def demo(out: Path) -> dict[str, Any]:
    return command("demo", "--seed", 0, "--out", out)


def pair(result: dict[str, Any], a: str, b: str, metric: str) -> dict[str, Any]:
    return next(p for p in result["pairs"] if (p["a"], p["b"], p["metric"]) == (a, b, metric))


def test_tuned_beats_base_and_what_a_grammar_alone_can_do(demo: dict[str, Any]) -> None:
    arms = {arm["name"]: arm for arm in demo["arms"]}
    assert list(arms) == ["base", "base+constrained", "tuned"]
    assert all(
        arm["tasks"] >= 16 and arm["rollouts"] >= 3 * arm["tasks"] and arm["pending"] == 0 for arm in arms.values()
    )
    assert 0.20 <= arms["base"]["validity"] <= 0.75
    assert arms["tuned"]["validity"] >= 0.95 and arms["tuned"]["pass_rate"] >= 0.5
    assert demo["verdict"]["label"] == "better" and pair(demo, "base", "tuned", "validity")["p"] <= 0.01
    beyond = [pair(demo, "base+constrained", "tuned", metric) for metric in ("executes", "pass_rate")]
    assert any(p["difference"] > 0 and p["p"] <= 0.05 for p in beyond)


def test_rollouts_of_a_task_differ(demo: dict[str, Any], out: Path) -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    for path in (out / "runs" / "tuned").glob("traces/*/*.jsonl"):
        trace = read_trace(path)
        texts[trace.task].add(json.dumps([turn.text for turn in trace.turns]))
    assert sum(len(different) > 1 for different in texts.values()) >= len(texts) / 2


def test_no_held_out_name_was_trained_on(demo: dict[str, Any], out: Path) -> None:
    split = json.loads((out / "dataset" / "dataset.json").read_text())["split"]
    trained = (out / "dataset" / "trajectories.jsonl").read_text()
    modules = [task.split("-", 2)[2] for task in split["held_out"]]
    assert len(modules) == 18 and not [name for name in modules if f"{name}.py" in trained]


def test_the_printed_commands_give_the_same_numbers(demo: dict[str, Any], out: Path) -> None:
    words, made = next(entry for entry in commands(0, out) if entry[1].name == "tuned")
    again = made.with_name("by-hand")
    command(*words[:-1], again)
    assert command("compare", out / "runs/base", again, "--out", out / "again")["arms"][1] == demo["arms"][2]


def test_a_placebo_is_not_better(demo: dict[str, Any], out: Path) -> None:
    placebo = swap_targets(out / "dataset", out / "placebo")
    command("train", placebo, "--base", "tiny", "--lr", "2e-3", "--epochs", 1, "--out", out / "placebo-adapter")
    words, made = next(entry for entry in commands(0, out) if entry[1].name == "tuned")
    run = made.with_name("placebo")
    words = [word.replace(f"+{out / 'adapter'}", f"+{out / 'placebo-adapter'}") for word in words]
    command(*words[:-1], run)
    verdict = command("compare", out / "runs/base", run, "--out", out / "placebo-report")["verdict"]
    assert verdict["label"] in ("worse", "inconclusive")


def test_the_demo_goes_on_where_it_stopped(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "repo_agent.cli", "demo", "--seed", "3", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("runs/teacher/traces/*/*.jsonl"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime for path in (tmp_path / "out").glob("runs/teacher/traces/*/*.jsonl")}
    first = commands(3, tmp_path / "out")[0][0]
    assert command(*first)["pending"] == 0
    assert before and all(path.stat().st_mtime == when for path, when in before.items())
