"""The demo: the chain's plain commands, one after another, on the tiny base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from repo_agent.flywheel.chain import Commands, Run, Say, run_commands

TEACHER_ROLLOUTS = 5
ROLLOUTS = 3
JOBS = 24
EPOCHS, LR = 5, 2e-3
"""A tiny model wants a far larger rate than a 7B."""


def commands(seed: int, out: Path) -> Commands:
    """Every command of the chain as words, with the directory that it makes."""
    runs, dataset, adapter, report = out / "runs", out / "dataset", out / "adapter", out / "report"
    suite = ["--suite", f"micro={seed}", "--seed", str(seed)]

    def held_out(name: str, model: str, *more: str) -> tuple[list[str], Path]:
        words = ["eval", *suite, "--split", "held-out", "--model", model, "--rollouts", str(ROLLOUTS)]
        return [*words, "--jobs", str(JOBS), *more, "--out", str(runs / name)], runs / name

    teacher = ["eval", *suite, "--split", "train", "--model", "oracle", "--rollouts", str(TEACHER_ROLLOUTS)]
    arms = ["base", "base-constrained", "tuned"]
    tuning = ["--base", "tiny", "--epochs", str(EPOCHS), "--lr", str(LR), "--seed", str(seed)]
    return [
        ([*teacher, "--out", str(runs / "teacher")], runs / "teacher"),
        (["build", str(runs / "teacher"), "--out", str(dataset)], dataset),
        (["train", str(dataset), *tuning, "--out", str(adapter)], adapter),
        held_out("base", "local:tiny"),
        held_out("base-constrained", "local:tiny", "--constrain"),
        held_out("tuned", f"local:tiny+{adapter}"),
        (["compare", *(str(runs / arm) for arm in arms), "--out", str(report)], report),
    ]


def run_demo(seed: int, out: Path, run: Run, say: Say) -> dict[str, Any]:
    """Run the chain through `run`, a command's words at a time; returns the comparison's JSON.

    A step whose directory is complete is not repeated; an unfinished run is resumed. Raises what `run_commands` does.
    """
    run_commands(commands(seed, out), out, run, say)
    result: dict[str, Any] = json.loads((out / "report" / "comparison.json").read_text())
    return result
