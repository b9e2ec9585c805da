"""Flywheels of the tiny model as a user runs them: killed anywhere and resumed; self-training, and its placebo."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from placebo import swap_targets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
SMALL = """
out = "{out}"
suite = "micro=0"
base = "tiny"
rollouts = 1
held_out = 40
constrained_base = false
stop_unless_better = false
[eval]
jobs = 24
max_steps = 3
max_tokens = 64
tests = "never"
[[round]]
name = "first"
route = "teacher"
teacher = "oracle"
rollouts = 2
collect = {{ max_steps = 16 }}
train = {{ epochs = 2, lr = 1e-3 }}
[[round]]
name = "own"
route = "self"
begin = "base"
rollouts = 2
train = {{ epochs = 1, lr = 1e-3, evals = 0 }}
"""
STAGES = (
    "runs/base runs/first-collect datasets/first adapters/first runs/first reports/first "
    "runs/own-collect datasets/own adapters/own runs/own reports/own reports/routes-to-own"
).split()


def words(*more: object) -> list[str]:
    return [sys.executable, "-m", "repo_agent.cli", *map(str, more)]


def finish(*more: object) -> dict[str, Any]:
    done = subprocess.run([*words(*more), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def plan(tmp_path: Path, name: str) -> tuple[Path, Path]:
    file, out = tmp_path / f"{name}.toml", tmp_path / name
    file.write_text(SMALL.format(out=out))
    return file, out


def ended(out: Path) -> list[str]:
    """The stages that the journal calls done."""
    path = out / "commands.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["end"] for line in lines if line.startswith('{"end"') and line.endswith("}")]


def has_ended(out: Path, stage: str) -> Callable[[], bool]:
    return lambda: stage in ended(out)


def state(out: Path, stages: list[str]) -> dict[Path, tuple[int, str]]:
    """Every file of some stages: when it was written, and a hash of it."""
    files = [path for stage in stages for path in (out / stage).rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def killed_once(file: Path, when: Callable[[], bool]) -> bool:
    """Start the flywheel and kill it when something is so; returns whether it was still running."""
    process = subprocess.Popen(words("flywheel", file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 1800
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    return process.wait() == -9


def results(result: dict[str, Any], out: Path) -> dict[str, Any]:
    """What came of it, without the clock and without the folder's name."""
    text = json.dumps({name: value for name, value in result.items() if name != "seconds"})
    kept: dict[str, Any] = json.loads(text.replace(str(out), "OUT"))
    return kept


def test_killed_anywhere_it_does_nothing_twice_and_comes_to_the_same(tmp_path: Path) -> None:
    file, out = plan(tmp_path, "killed")
    moments: list[Callable[[], bool]] = [
        lambda: len(list(out.glob("runs/base/traces/*/*.jsonl"))) >= 4,
        lambda: any(out.glob("adapters/first.run/checkpoint-*/whole")),
        *(has_ended(out, stage) for stage in STAGES[:-1]),
    ]
    kills, seen = 0, dict[Path, tuple[int, str]]()
    for moment in moments:
        kills += killed_once(file, moment)
        assert seen.items() <= state(out, ended(out)).items()
        seen = state(out, ended(out))
    assert kills >= 10
    result = finish("flywheel", file)
    assert seen.items() <= state(out, STAGES).items()
    assert not [path for path in out.rglob(".*") if path.is_dir()] and not list(out.rglob("*.run"))
    other, whole = plan(tmp_path, "whole")
    assert results(finish("flywheel", other), whole) == results(result, out)
    for adapter in ("first", "own"):
        weights = [(where / "adapters" / adapter / "adapter_model.safetensors").read_bytes() for where in (out, whole)]
        assert weights[0] == weights[1]
    before = state(out, ["."])
    finish("flywheel", file)
    changed = {path.name for path, (_, known) in state(out, ["."]).items() if before[path][1] != known}
    assert not changed, changed


def test_the_budget_of_minutes_ends_a_training_that_resumes(tmp_path: Path) -> None:
    file, out = plan(tmp_path, "short")
    killed_once(file, lambda: any(out.glob("adapters/first.run/checkpoint-*/whole")))
    file.write_text("budget_minutes = 0.01\n" + file.read_text())
    done = subprocess.run(words("flywheel", file), capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "the budget of 0.01 minutes is spent" in done.stderr, done.stderr
    assert "nothing that is finished is done twice" in done.stderr and done.stderr.count("Traceback") == 0
    seen = state(out, ended(out)[:3])
    file.write_text(file.read_text().replace("budget_minutes = 0.01\n", ""))
    assert finish("flywheel", file)["ended"] == "all rounds are done"
    assert seen.items() <= state(out, STAGES).items()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that a deliberately short training left at three calls in four, and its teaching of itself."""
    out = tmp_path_factory.mktemp("self")
    finish(*"eval --suite micro=0 --split train --model oracle --rollouts 1 --out".split(), out / "teacher")
    finish("build", out / "teacher", "--out", out / "data")
    finish(*"train --base tiny --epochs 1 --lr 1e-3 --evals 0".split(), out / "data", "--out", out / "adapter")
    return out


TEACH = "self-train --suite micro=0 --rollouts 3 --max-tokens 256 --jobs 24 --epochs 3 --lr 2e-3".split()


@pytest.fixture(scope="module")
def taught(short: Path) -> dict[str, Any]:
    return finish(*TEACH, "--model", f"local:tiny+{short / 'adapter'}", "--out", short / "self")


def test_a_grammar_is_distilled_without_a_teacher(short: Path, taught: dict[str, Any]) -> None:
    arms = {arm["name"]: arm for arm in taught["arms"]}
    verdict = taught["rounds"][0]["verdict"]
    assert list(arms) == ["base", "base-constrained", "start", "self-1"]
    assert 0.6 <= arms["start"]["validity"] <= 0.85
    assert verdict["validity"]["difference"] > 0 and verdict["validity"]["p"] < 0.05
    assert verdict["label"] in ("better", "better_validity")
    # No turn of a teacher: all that it was trained on is its own, under the grammar.
    sources = json.loads((short / "self/datasets/self-1/dataset.json").read_text())["sources"]
    assert [source["arm"] for source in sources] == ["tuned+constrained"]


def test_its_placebo_is_not_better(short: Path, taught: dict[str, Any]) -> None:
    """The same rows, each target moved to another context."""
    out = short / "placebo"
    shutil.copytree(short / "self", out, ignore=shutil.ignore_patterns("adapters", "reports", "self-1", "rounds.*"))
    swap_targets(short / "self/datasets/self-1", out / "datasets/self-1")
    lines = (short / "self/commands.jsonl").read_text().replace(str(short / "self"), str(out)).splitlines()
    (out / "commands.jsonl").write_text("\n".join(lines) + "\n")
    placebo = finish(*TEACH, "--model", f"local:tiny+{short / 'adapter'}", "--out", out)
    assert placebo["rounds"][0]["verdict"]["label"] in ("worse", "inconclusive")
