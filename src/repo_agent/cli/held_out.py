"""Which tasks a command may take contexts from, by the split that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repo_agent.data.dataset import read_dataset
from repo_agent.errors import UserError
from repo_agent.tasks import load_suite
from repo_agent.traces.read import find_traces
from repo_agent.traces.splits import RecordedSplit, agreed_split


def replayed_tasks(paths: Sequence[Path], split: str, dataset: Path | None, suite: str | None) -> frozenset[str] | None:
    """The tasks of one side of the split that a dataset, a suite or the runs tell; None for all tasks.

    Raises UserError where nothing tells a split, or two were named.
    """
    if split not in ("held-out", "train", "all"):
        raise UserError(f"{split!r} is none of held-out, train, all", "--split", "Choose one of them")
    if dataset and suite:
        raise UserError("two splits are named", "--dataset, --suite", "Give one of them")
    if split == "all":
        return None
    found = _of_dataset(dataset) if dataset else _of_runs(paths, suite)
    return frozenset(found.held_out if split == "held-out" else found.train)


def _of_dataset(path: Path) -> RecordedSplit:
    split = read_dataset(path).record["split"]
    if not split:
        remedy = "Build it with --hold-out, or give --split all"
        raise UserError("records no split: it was built with --no-split", str(path), remedy)
    return RecordedSplit(tuple(split["train"]), tuple(split["held_out"]))


def _of_runs(paths: Sequence[Path], suite: str | None) -> RecordedSplit:
    remedy = "Give --dataset (one built with --hold-out), --suite, or --split all"
    return agreed_split(find_traces(paths), load_suite(suite).split() if suite else None, remedy)
