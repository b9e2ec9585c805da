"""Outcomes that came later: `labels.jsonl` of a run directory, one JSON object a line; a rollout's last one counts.

    {"task", "rollout", "passed": true, false or null, "by", "when"}

They are for rollouts that nobody graded: those of another agent, recorded or imported.
"""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import NamedTuple

from repo_agent.errors import UserError
from repo_agent.traces.files import written

FILE = "labels.jsonl"
OUTCOMES: dict[str, bool | None] = {"passed": True, "failed": False, "unknown": None}


class Labels:
    """The labels of one run directory."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._known: dict[tuple[str, int | None], bool | None] = {}
        path = run / FILE
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                    self._known[record["task"], record["rollout"]] = record["passed"]
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(f"is no label ({error})", f"{path}:{number}", "Remove the line") from error

    def passed(self, task: str, rollout: int | None, recorded: bool | None) -> bool | None:
        """The outcome of a rollout: the label where there is one, else what its trace says."""
        return self._known.get((task, rollout), recorded)


class Rollout(NamedTuple):
    """One that may be marked."""

    task: str
    number: int
    source: str


def mark(run: Path, which: str, outcome: str, rollouts: list[Rollout]) -> list[Rollout]:
    """Label a rollout `TASK/K`, or with `TASK` all of its rollouts; returns those that were marked.

    Raises UserError for an outcome or a rollout that there is not, and for one that its tests graded.
    """
    if outcome not in OUTCOMES:
        raise UserError(f"{outcome!r} is no outcome", "mark", f"Say {', '.join(OUTCOMES)}")
    task, _, number = which.rpartition("/")
    found = [one for one in rollouts if one.task == which or (one.task, str(one.number)) == (task, number)]
    if not found:
        some = ", ".join(f"{one.task}/{one.number}" for one in rollouts[:3]) or "none"
        raise UserError(f"there is no rollout {which!r}", str(run), f"Give TASK or TASK/K; it has {some} …")
    graded = [one for one in found if one.source == "loop"]
    if graded:
        raise UserError(f"{which} was graded by its tests", str(run), "Marks are for recorded and imported rollouts")
    about = {"passed": OUTCOMES[outcome], "by": getpass.getuser(), "when": round(time.time(), 3)}
    lines = [json.dumps({"task": one.task, "rollout": one.number, **about}, ensure_ascii=False) for one in found]
    with written(run / FILE), (run / FILE).open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return found
