"""Arms of several rounds beside each other: validity and pass rate on the held-out tasks, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repo_agent.evaluate import metrics, stats
from repo_agent.evaluate.arms import Arm
from repo_agent.evaluate.verdict import PASS_RATE, VALIDITY
from repo_agent.report import plots

DATA, PLOT = "rounds.json", "rounds.svg"


@dataclass(frozen=True)
class Point:
    """One arm: means over tasks; the interval holds the means that sign flips of the tasks' values do not reject."""

    name: str
    tasks: int
    rollouts: int
    validity: float | None
    validity_interval: stats.Interval | None
    """95%; None for fewer than 6 tasks."""
    pass_rate: float | None
    pass_rate_interval: stats.Interval | None

    @classmethod
    def of(cls, name: str, arm: Arm) -> Point:
        """The figures of a run."""
        rows = [[v for v in metrics.by_task(arm, one).values() if v is not None] for one in (VALIDITY, PASS_RATE)]
        validity, passed = (flips.interval for flips in stats.sign_flips(rows))
        means = metrics.overall(arm, VALIDITY), metrics.overall(arm, PASS_RATE)
        return cls(name, len(arm.tasks), len(arm.rows), means[0], validity, means[1], passed)

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def write_rounds(out: Path, result: Mapping[str, Any], points: Sequence[Point]) -> None:
    """Write rounds.json and rounds.svg into a folder, in place of older ones."""
    for name, text in ((DATA, json.dumps(result, indent=2, ensure_ascii=False) + "\n"), (PLOT, plots.rounds(points))):
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)
