"""The demo: the chain's plain commands, one after another, on the tiny base model."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError

TEACHER_ROLLOUTS = 5
ROLLOUTS = 3
JOBS = 24
EPOCHS, LR = 5, 2e-3
"""A tiny model wants a far larger rate than a 7B."""


Commands = list[tuple[list[str], Path]]
"""Commands as words, with the directory that each makes."""


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


def run_demo(seed: int, out: Path, run: Callable[[Sequence[str]], Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Run the chain through `run`, a command's words at a time; returns the comparison's JSON.

    A step whose directory is complete is not repeated; an unfinished run is resumed. Raises UserError for a folder of
    something else.
    """
    if out.exists() and not (out / "runs").is_dir() and (out.is_file() or any(out.iterdir())):
        raise UserError("exists and is no demo's directory", str(out), "Choose another --out")
    run_commands(commands(seed, out), run, say)
    result: dict[str, Any] = json.loads((out / "report" / "comparison.json").read_text())
    return result


def run_commands(
    commands: Commands, run: Callable[[Sequence[str]], Any], say: Callable[[str], None]
) -> dict[Path, float]:
    """Run commands in order; returns seconds by directory. One whose directory is complete is not repeated."""
    took: dict[Path, float] = {}
    for words, made in commands:
        say(f"\n$ {shlex.join(['repo-agent', *words])}")
        if words[0] != "eval" and made.exists():
            say(f"{made} is there already")
            continue
        started = time.monotonic()
        run(words)
        took[made] = time.monotonic() - started
    say(f"\nThe whole chain took {sum(took.values()):.0f} s.")
    return took
