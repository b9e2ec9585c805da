"""The gates, in order, and the funnel: what each of them drops, per task. Nothing is dropped uncounted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from repo_agent.data.steps import Step
from repo_agent.errors import UserError
from repo_agent.traces.read import run_folder
from repo_agent.traces.store import RunDir

MAX_LENGTH = 32_768
"""Tokens of a row: the context of Qwen2.5. Generous, since a small tokenizer counts several times what a 7B's does."""


class TaskSplit(Protocol):
    """Task ids of both sides: a suite's own split, or one read back from run.json."""

    @property
    def train(self) -> tuple[str, ...]: ...

    @property
    def held_out(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class RecordedSplit:
    """The split that run.json stores."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Ground:
    """What the gates decide by."""

    contract: str
    """Hash of the one contract of the dataset."""
    train: frozenset[str] | None
    """Tasks that may be trained on; None where the split is off."""
    length: Callable[[Step], int]
    """Tokens of a step's row, its target included."""
    max_length: int = MAX_LENGTH


Gate = Callable[[Step, Ground], bool]
"""True keeps the step."""
_VALID = frozenset({"ok", "final", "exec_error"})

GATES: dict[str, Gate] = {
    "contract": lambda step, ground: step.contract.hash == ground.contract,
    "split": lambda step, ground: ground.train is None or step.task in ground.train,
    "strict_valid": lambda step, ground: step.turn_class in _VALID,
    "executed_ok": lambda step, ground: step.turn_class == "ok" or _ended_by(step),
    "run_passed": lambda step, ground: step.passed is True,
    "no_repeat": lambda step, ground: not step.repeats,
    "within_length": lambda step, ground: ground.length(step) <= ground.max_length,
}


@dataclass(frozen=True)
class Funnel:
    """How many steps came in, which gate dropped how many of which task, and how many are left."""

    candidates: int
    dropped: Mapping[str, Mapping[str, int]]
    """Gate to task to count, in the order of the gates."""
    rows: int

    def totals(self) -> dict[str, int]:
        """Steps dropped by each gate; with `rows` they add up to `candidates`."""
        return {gate: sum(tasks.values()) for gate, tasks in self.dropped.items()}

    def to_dict(self) -> dict[str, Any]:
        gates = [
            {"gate": gate, "dropped": sum(tasks.values()), "tasks": dict(tasks)} for gate, tasks in self.dropped.items()
        ]
        return {"candidates": self.candidates, "gates": gates, "rows": self.rows}

    def line(self) -> str:
        """The funnel in one line."""
        drops = ", ".join(f"{gate} -{count}" for gate, count in self.totals().items())
        return f"{self.candidates} candidates, {drops}, {self.rows} rows"


def sift(steps: Sequence[Step], ground: Ground) -> tuple[list[Step], Funnel]:
    """Put steps through every gate in order; a step counts at the first gate that drops it."""
    left, dropped = list(steps), {}
    for name, keeps in GATES.items():
        if name == "split" and ground.train is None:
            continue
        verdicts = [(step, keeps(step, ground)) for step in left]
        dropped[name] = dict(Counter(step.task for step, kept in verdicts if not kept))
        left = [step for step, kept in verdicts if kept]
    return left, Funnel(len(steps), dropped, len(left))


def commonest_contract(steps: Iterable[Step]) -> str:
    """Hash of the contract that most steps have; "" where there is no step."""
    counts = Counter(step.contract.hash for step in steps)
    return max(counts, key=lambda key: (counts[key], key), default="")


def agreed_split(traces: Iterable[Path], suite: TaskSplit | None) -> TaskSplit:
    """The one split that the traces' runs, and the suite where given, record. Recorded and imported runs have none.

    Raises UserError where two disagree or none is recorded.
    """
    folders = dict.fromkeys(folder for trace in traces if (folder := run_folder(trace)))
    runs = [RunDir(folder) for folder in folders]
    found = {str(run.path): _recorded(run) for run in runs if suite is None or "train" in run.record}
    if suite is not None:
        found["--suite"] = RecordedSplit(suite.train, suite.held_out)
    if not found:
        remedy = "Give --suite to know what is held out, or --no-split to train on everything"
        raise UserError("these traces record no split", "build", remedy)
    (first, split), *others = found.items()
    for where, other in others:
        if (set(other.train), set(other.held_out)) != (set(split.train), set(split.held_out)):
            raise UserError(f"disagrees with {first} on what is held out", where, "Build from runs of one suite split")
    return split


def _recorded(run: RunDir) -> RecordedSplit:
    record = run.record
    try:
        return RecordedSplit(tuple(record["train"]), tuple(record["held_out"]))
    except (KeyError, TypeError) as error:
        remedy = "Give a run that `repo-agent eval` made, or --no-split"
        raise UserError("its run.json records no split", str(run.path), remedy) from error


def _ended_by(step: Step) -> bool:
    """A final that ended the rollout. One that the tests answered, so that it went on, teaches to stop too soon."""
    return step.turn_class == "final" and step.last
