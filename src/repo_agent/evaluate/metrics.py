"""Figures per task, then over tasks: a ratio of sums within a task, so that no looping rollout outweighs the others.

validity     ok / scored turns; scored: all but `final` and `infra_error`
parses, known, arguments, executes
             the ladder: share of scored turns past each rung (executes is validity)
lenient      share of scored turns in which a forgiving parse finds a call that the schema takes, whether or not it
             then executed: so it stands beside `arguments`, and may lie above validity by failed calls alone
pass_rate    share of rollouts whose grade is passed, of those whose outcome is known
mean_calls, mean_steps
             calls and assistant turns a rollout
"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

from repo_agent.evaluate.arms import Arm, Row
from repo_agent.tools.verdict import LADDER, UNSCORED, rungs

TURN_METRICS = ("validity", *LADDER, "lenient")
PER_ROLLOUT = ("mean_calls", "mean_steps")
METRICS = (*TURN_METRICS, "pass_rate", *PER_ROLLOUT)
_RUNG = {"validity": len(LADDER)} | {name: rung for rung, name in enumerate(LADDER, 1)}


def by_task(arm: Arm, metric: str, pending_as: bool | None = None) -> dict[str, float | None]:
    """The metric of every task, in suite order; None for a task with nothing to count.

    `pending_as` bounds what pending rollouts could still do: True, they count as high as the limits allow; False, as
    low; None, they are left out. A rollout has at most `max_steps` turns, so the bounds hold whatever it would do.
    """
    return {task: _value(arm, task, rows, metric, pending_as) for task, rows in arm.by_task.items()}


def _value(arm: Arm, task: str, rows: Iterable[Row], metric: str, pending_as: bool | None) -> float | None:
    counts = [count(row, metric) for row in rows]
    above, below = (sum(part) for part in zip(*counts, strict=True)) if counts else (0, 0)
    if pending_as is not None:
        pending, most = arm.pending_by_task[task], arm.record["limits"]["max_steps"]
        above += pending * (1 if metric == "pass_rate" else most) * pending_as
        below += pending * (most if metric in TURN_METRICS else 1)
    return above / below if below else None


def count(row: Row, metric: str) -> tuple[int, int]:
    """Numerator and denominator that one rollout adds to a metric."""
    if metric in TURN_METRICS:
        scored = {name: n for name, n in row.classes.items() if name not in UNSCORED}
        hits = row.lenient_ok
        if metric != "lenient":
            hits = sum(n for name, n in scored.items() if rungs(name) >= _RUNG[metric])
        return hits, sum(scored.values())
    if metric == "pass_rate":
        return int(bool(row.passed)), int(row.passed is not None)
    return {"mean_calls": row.calls, "mean_steps": row.steps}[metric], 1


def overall(arm: Arm, metric: str) -> float | None:
    """Mean over the tasks that have a value; None where none has."""
    return mean(by_task(arm, metric).values())


def unscored_tasks(arm: Arm) -> list[str]:
    """Tasks without one scored turn: they have no validity, and no pair on it."""
    return [task for task, value in by_task(arm, "validity").items() if value is None]


def any_pass(arm: Arm) -> float | None:
    """pass@K over tasks, K the rollouts of the run; tasks with a pending one are left out."""
    return mean(pass_at_k(n, c, n) for n, c in _passes(arm))


def all_pass(arm: Arm) -> float | None:
    """pass^K over tasks, K the rollouts of the run; tasks with a pending one are left out."""
    return mean(pass_hat_k(n, c, n) for n, c in _passes(arm))


def _passes(arm: Arm) -> list[tuple[int, int]]:
    """(rollouts, passed) of each task without a pending one."""
    whole = [rows for task, rows in arm.by_task.items() if not arm.pending_by_task[task]]
    known = [[row.passed for row in rows if row.passed is not None] for rows in whole]
    return [(len(passed), sum(passed)) for passed in known if passed]


def pass_at_k(n: int, c: int, k: int) -> float:
    """pass@k: chance that one of k rollouts passes at least, unbiased from c passes in n (arXiv 2107.03374)."""
    return 1 - comb(n - c, k) / comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """pass^k: chance that all of k rollouts pass, unbiased from c passes in n (arXiv 2406.12045)."""
    return comb(c, k) / comb(n, k)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; None where none is."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
