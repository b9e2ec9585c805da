"""An arm: one run directory as evidence. What it ran, its whole rollouts, and those that are pending."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import text_hash, tilde
from repo_agent.models.resolve import parts
from repo_agent.traces.store import INDEX, PROMPT, RECORD, TOOLS, RunDir, tool_hashes

NEEDED = (
    "suite_hash tasks rollouts seed protocol limits sampling arm model constrain suite split held_out held_out_groups "
    "train"
).split()
"""Keys of run.json without which a run is no evidence."""


@dataclass(frozen=True, slots=True)
class Row:
    """One whole rollout, as the index has it."""

    task: str
    rollout: int
    trace: str
    """Path of its trace, relative to the run directory."""
    ended: str
    passed: bool | None
    """None where nobody knows: a replayed turn, a recorded rollout that was not marked."""
    steps: int
    calls: int
    """Turns in which a call was parsed."""
    classes: Mapping[str, int]
    """Turn class → number of turns."""
    lenient_ok: int
    raw_unknown: int
    """Turns imported without their raw text."""
    verbatim: bool | None = None
    """Whether the fix is the reference's, word for word; None where that is unknown, as in older indexes."""
    isolation: str | None = None
    """What its tests ran in; None where that is unknown."""


@dataclass(frozen=True)
class Arm:
    """A run directory read: `record` is its run.json, `rows` its whole rollouts that the record asks for."""

    name: str
    path: Path
    record: Mapping[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What was left out of it, and what else to say beside its figures."""

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.record["tasks"])

    @cached_property
    def by_task(self) -> dict[str, tuple[Row, ...]]:
        """Every task of the run, in suite order, with its whole rollouts, by number."""
        found: dict[str, list[Row]] = {task: [] for task in self.tasks}
        for row in self.rows:
            found[row.task].append(row)
        return {task: tuple(sorted(rows, key=lambda row: row.rollout)) for task, rows in found.items()}

    @cached_property
    def pending(self) -> tuple[tuple[str, int], ...]:
        """(task, rollout number) pairs without a whole trace."""
        if self.recorded:
            return ()
        done = {(row.task, row.rollout) for row in self.rows}
        return tuple((t, k) for t in self.tasks for k in range(rollouts_of(self.record, t)) if (t, k) not in done)

    @cached_property
    def pending_by_task(self) -> Counter[str]:
        return Counter(task for task, _ in self.pending)

    @property
    def replayed(self) -> bool:
        """Whether each rollout is one next call in a recorded context."""
        return self.record.get("kind") == "replay"

    @property
    def recorded(self) -> bool:
        """Whether another agent played: then nothing is pending."""
        return is_recorded(self.record)

    @property
    def graded(self) -> bool:
        """Whether the outcome of some rollout is known."""
        return any(row.passed is not None for row in self.rows)

    @property
    def classes(self) -> dict[str, int]:
        """Turn class → number of turns over all rollouts, most frequent first."""
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update(row.classes)
        return dict(total.most_common())

    @property
    def verbatim(self) -> tuple[int, int] | None:
        """(passed rollouts whose fix is the reference's word for word, passed rollouts of which that is known); None
        where it is known of none."""
        known = [row.verbatim for row in self.rows if row.passed and row.verbatim is not None]
        return (sum(known), len(known)) if known else None

    @property
    def kind(self) -> str:
        """`local`, a server's kind (`openai`, `together`), or `oracle`."""
        return str(self.record["model"]).partition(":")[0]

    @property
    def adapted(self) -> bool:
        """Whether the model carries an adapter that we know of; run.json of older runs names it in the model alone."""
        known = self.record.get("adapter") is not None
        return known or ("adapter" not in self.record and self.kind == "local" and "+" in self.record["model"])

    @property
    def adapter_unknown(self) -> bool:
        """Whether a server may run an adapter that is not named."""
        return self.kind not in ("local", "oracle") and not self.adapted

    @property
    def base_name(self) -> str | None:
        """The base of a local or adapted model, as it was written."""
        if self.adapted and "base" in (self.record.get("adapter") or {}):
            return str(self.record["adapter"]["base"])
        return parts(self.record["model"])[1] if self.kind == "local" else None

    @property
    def base_hash(self) -> str | None:
        """Hash of the base's weights, of a local or adapted model; None where that is unknown."""
        return self.record.get("base_hash")

    @property
    def leaked_tasks(self) -> tuple[str, ...]:
        """Tasks of this run that its adapter was trained on, as far as run.json says."""
        trained = set((self.record.get("adapter") or {}).get("train_tasks") or ())
        return tuple(task for task in self.tasks if task in trained)

    @cached_property
    def isolations(self) -> Counter[str]:
        """What the tests ran in → number of rollouts; as run.json says where the rollouts do not."""
        found = Counter(row.isolation for row in self.rows if row.isolation)
        return found or Counter({str(self.record["isolation"]): len(self.rows)} if self.record.get("isolation") else {})


def is_recorded(record: Mapping[str, Any]) -> bool:
    """Whether another agent played a run, as its run.json says: `record`, or `import:KIND`."""
    return str(record.get("kind")).partition(":")[0] in ("record", "import")


def load_arm(run_dir: Path) -> Arm:
    """Read one run directory; its index is rebuilt first where it does not list just the whole traces.

    Raises UserError for a folder that is no run, and for a run.json or an index that lacks what a comparison needs.
    """
    run = RunDir(run_dir)
    record = run.record
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise UserError(f"lacks {', '.join(missing)}", str(run_dir / RECORD), "Run `repo-agent eval` again")
    wanted = {(task, k) for task in record["tasks"] for k in range(rollouts_of(record, task))}
    whole = tuple(row for row in rows_of(run) if (row.task, row.rollout) in wanted)
    return Arm(record["arm"], run_dir, {**_played(run_dir, whole), **record}, whole)


def rows_of(run: RunDir) -> tuple[Row, ...]:
    """The whole rollouts of a run directory."""
    return tuple(_row(raw, run.path) for raw in run.rows())


def rollouts_of(record: Mapping[str, Any], task: str) -> int:
    """How many rollouts of a task a run has: the same number of each, or of a replay its contexts times samples."""
    rollouts = record["rollouts"]
    return int(rollouts[task] if isinstance(rollouts, dict) else rollouts)


def _played(run_dir: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """The hashes of tools and prompt that a rollout's trace tells, for run.json of older runs."""
    for row in rows[:1]:
        with (run_dir / row.trace).open(encoding="utf-8") as file:
            start = json.loads(file.readline())
        if start.get("tools") is not None:
            return {TOOLS: tool_hashes(start["tools"]), PROMPT: text_hash(start["system"])}
    return {}


def _row(raw: Mapping[str, Any], run_dir: Path) -> Row:
    try:
        known = [field.name for field in fields(Row) if field.name in raw or field.default is MISSING]
        return Row(**{name: raw[name] for name in known})
    except KeyError as error:
        remedy = "Delete it; it is rebuilt from the traces"
        raise UserError(f"a row lacks {error}", str(run_dir / INDEX), remedy) from error


def shown(path: Path) -> str:
    """A path for others to read: relative where it lies in the current directory, else absolute with ~ for home."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else tilde(str(whole))
