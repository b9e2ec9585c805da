"""Which tasks may be trained on: the split that the runs record, or that of a suite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from repo_agent.errors import UserError
from repo_agent.messages import text_hash
from repo_agent.traces.read import read_first, read_trace, run_folder
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


def held_out_now(traces: Iterable[Path], wanted: str) -> RecordedSplit:
    """A split of recorded tasks: whole groups, in the order of their hashes, so that the same traces give the same.

    `wanted` is a number of groups, or a share such as 30%. Raises UserError for another form, or where one side would
    be empty.
    """
    groups: dict[str, set[str]] = {}
    for trace in traces:
        task, group = _first_words(trace)
        groups.setdefault(group, set()).add(task)
    ranked = sorted(groups, key=text_hash)
    count = _how_many(wanted, len(ranked))
    if not 0 < count < len(ranked):
        what = f"holds out {count} of {len(ranked)} groups of tasks, and one side would be empty"
        remedy = "Hold out fewer, or record more tasks" if count else "Hold out one or more, or give --no-split"
        raise UserError(what, f"--hold-out {wanted}", remedy)
    sides = ranked[count:], ranked[:count]
    train, held_out = (tuple(sorted(task for group in side for task in groups[group])) for side in sides)
    return RecordedSplit(train, held_out)


def _how_many(wanted: str, groups: int) -> int:
    number, percent = wanted.removesuffix("%"), wanted.endswith("%")
    if not number.isdecimal():
        raise UserError("is no number of groups and no share", f"--hold-out {wanted}", "Give 8, or 30%")
    return math.ceil(int(number) * groups / 100) if percent else int(number)


def _first_words(trace: Path) -> tuple[str, str]:
    """Task and group of a trace of any shape."""
    try:
        start = read_first(trace)
    except UserError:
        whole = read_trace(trace)
        return whole.task, whole.group
    return start.task, start.group


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


def has_split(run: Path) -> bool:
    """Whether a run directory says which tasks are held out."""
    return "train" in RunDir(run).record


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
