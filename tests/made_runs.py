"""Run directories as `eval` leaves them, and arms in memory, for tests of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repo_agent.agent.spec import Limits
from repo_agent.evaluate.arms import Arm, Row
from repo_agent.models import Sampling
from repo_agent.traces import events
from repo_agent.traces.store import RunDir

TUNED = "local:tiny+adapters/t"
OK, BAD = ["ok", "ok", "final"], ["missing_arg", "ok", "wrong_type", "final"]
SWAPPED = ["wrapped", "ok", "exec_error", "ok"]


def make_run(
    path: Path,
    rollouts: Sequence[Sequence[Sequence[str]]],
    *,
    model: str = "local:tiny",
    passed: bool | Sequence[bool | None] = True,
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


Counts = Sequence[tuple[int, int, bool]]
"""Of one task's rollouts: valid turns, scored turns, passed."""


def arm(name: str, tasks: Sequence[Counts], *, rollouts: int = 1, max_steps: int = 16, **record: Any) -> Arm:
    """An arm of these rollouts; those missing of `rollouts` are pending."""
    ids = [f"t{number:02}" for number in range(len(tasks))]
    rows = [
        Row(task, k, "", "final", passed, scored, scored, {"ok": valid, "no_call": scored - valid}, valid, 0)
        for task, counts in zip(ids, tasks, strict=True)
        for k, (valid, scored, passed) in enumerate(counts)
    ]
    settings = {"tasks": ids, "rollouts": rollouts, "limits": {"max_steps": max_steps}, "model": "local:x"}
    return Arm(name, Path(name), {**settings, "constrain": False, **record}, tuple(rows))
