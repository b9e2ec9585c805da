"""Which tasks may be trained on: the split that the runs record, or that of a suite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from repo_agent.errors import UserError
from repo_agent.traces.read import run_folder
from repo_agent.traces.store import RunDir


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

    @property
    def tasks(self) -> frozenset[str]:
        return frozenset((*self.train, *self.held_out))

    @property
    def sides(self) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(self.train), frozenset(self.held_out)


def agreed_split(traces: Iterable[Path], suite: TaskSplit | None, remedy: str) -> RecordedSplit:
    """The split of all runs that the traces are in, and of the suite where given. Recorded and imported runs have none.

    Runs of several suites are joined where their task ids are disjoint. Raises UserError where two runs share tasks
    and disagree on them, or, with the `remedy` given, one or all record none.
    """
    folders = dict.fromkeys(folder for trace in traces if (folder := run_folder(trace)))
    runs = [RunDir(folder) for folder in folders]
    found = {str(run.path): _recorded(run, remedy) for run in runs if suite is None or "train" in run.record}
    if suite is not None:
        found["--suite"] = RecordedSplit(suite.train, suite.held_out)
    if not found:
        raise UserError("these traces record no split", "these runs", remedy)
    apart: dict[str, RecordedSplit] = {}
    for where, split in found.items():
        shared = [other for other, known in apart.items() if known.tasks & split.tasks]
        odd = [other for other in shared if apart[other].sides != split.sides]
        if odd:
            _refuse(odd[0], apart[odd[0]], where, split)
        if not shared:
            apart[where] = split
    return RecordedSplit(
        tuple(task for split in apart.values() for task in split.train),
        tuple(task for split in apart.values() for task in split.held_out),
    )


def _refuse(first: str, known: RecordedSplit, where: str, split: RecordedSplit) -> None:
    if known.tasks == split.tasks:
        raise UserError(f"disagrees with {first} on what is held out", where, "Build from runs of one suite split")
    shared = sorted(known.tasks & split.tasks)
    what = f"shares {len(shared)} task ids with {first} ({', '.join(shared[:3])}), and they are not of one suite"
    raise UserError(what, where, "Join suites whose task ids are disjoint, or build each by itself")


def _recorded(run: RunDir, remedy: str) -> RecordedSplit:
    record = run.record
    try:
        return RecordedSplit(tuple(record["train"]), tuple(record["held_out"]))
    except (KeyError, TypeError) as error:
        raise UserError("its run.json records no split", str(run.path), remedy) from error
