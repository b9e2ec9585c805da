"""Are there near-duplicate programs on both sides of the split that a dataset is built by? What its card says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.tasks import load_suite
from repo_agent.tasks.similar import NEAR, compare_sides
from repo_agent.tasks.task import Split, Suite
from repo_agent.traces.read import find_traces, run_folder
from repo_agent.traces.store import RunDir


def near_duplicates(paths: Sequence[Path], suite: Suite | None = None) -> dict[str, Any]:
    """`{"checked", "why", "threshold", "compared", "pairs", "highest"}` for `data.build`.

    The programs are those of `suite`, else of the suite that the runs under `paths` name, where it can be read here and
    is still the one that was played. `highest` is the most alike pair, also below the threshold; None where no two
    programs share anything.
    """
    if suite is not None:
        return _found(suite, suite.split())
    try:
        return _found(*_played(paths))
    except UserError as error:
        return _not_checked(error.what)


def _found(suite: Suite, split: Split) -> dict[str, Any]:
    near = compare_sides(suite, split)
    return {
        "checked": True,
        "why": "",
        "threshold": NEAR,
        "compared": len(split.train) * len(split.held_out),
        "pairs": [asdict(pair) for pair in near if pair.similarity >= NEAR],
        "highest": asdict(near[0]) if near else None,
    }


def _not_checked(why: str) -> dict[str, Any]:
    return {"checked": False, "why": why, "threshold": NEAR, "compared": None, "pairs": None, "highest": None}


NO_SPLIT = _not_checked("the split is off (`--no-split`)")


def _played(paths: Sequence[Path]) -> tuple[Suite, Split]:
    """Suite and split of the first run. Raises UserError where there is none, or its suite is not to be had."""
    folder = next((folder for trace in find_traces(paths) if (folder := run_folder(trace))), None)
    if folder is None:
        raise UserError("the traces are in no run directory, so their suite is unknown; give --suite")
    record = RunDir(folder).record
    try:
        suite = load_suite(str(record.get("suite")))
    except UserError as error:
        raise UserError("the suite that the runs name cannot be read here; give --suite") from error
    if suite.hash != record.get("suite_hash"):
        raise UserError("the suite that the runs name has changed since; give --suite")
    return suite, Split(tuple(record.get("train", ())), tuple(record.get("held_out", ())))
