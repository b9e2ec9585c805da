"""Recorded runs as arms: what their traces say stands in for run.json, since nobody told the recorder what was run.

Two such arms did the same work where their tools and protocol are the same and their task ids match. Tasks that only
one of them has are left out, and so are those that are not held out from an adapter among them; both are said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.evaluate.arms import Arm, rows_of, shown
from repo_agent.messages import text_hash
from repo_agent.protocols.contract import Contract
from repo_agent.traces.events import RunStart
from repo_agent.traces.read import read_first
from repo_agent.traces.store import PROMPT, TOOLS, RunDir, tool_hashes


def recorded_arm(path: Path) -> Arm:
    """A recorded run as an arm, named by its folder. Raises UserError for one without a rollout or without tools."""
    run = RunDir(path)
    rows = rows_of(run)
    starts = [read_first(path / row.trace) for row in rows]
    if not starts:
        raise UserError("holds no whole rollout", str(path), "End the recorder first, or record more")
    tools = {_key(start): start for start in starts}
    if len(tools) > 1 or starts[0].tools is None:
        many = f"its rollouts have {len(tools)} sets of tools" if len(tools) > 1 else "its traces do not tell the tools"
        raise UserError(many, str(path), "Record each agent by itself, with --tools where it sends none")
    contracts = {Contract(start.tools or [], start.protocol).hash for start in starts}
    trained_for = (run.record.get("adapter") or {}).get("contract")
    if trained_for not in (None, *contracts):
        what = "the adapter that it names was trained for other tools than were recorded"
        raise UserError(what, str(path), "Name the one that the server ran, or train for these tools")
    tasks = sorted({row.task for row in rows})
    prompts = {start.system for start in starts}
    record = {
        "arm": path.name,
        "model": ", ".join(sorted({str(start.model) for start in starts})),
        "constrain": False,
        "suite": str(run.record.get("upstream") or run.record["kind"]),
        "split": "recorded",
        "tasks": tasks,
        "rollouts": dict(Counter(row.task for row in rows)),
        "protocol": starts[0].protocol,
        "limits": {},
        "sampling": _common([start.sampling for start in starts]),
        "held_out_groups": len(tasks),
        TOOLS: tool_hashes(starts[0].tools),
        PROMPT: text_hash(prompts.pop()) if len(prompts) == 1 else None,
    }
    return Arm(path.name, path, {**run.record, **record, "tools": None}, rows)


def _key(start: RunStart) -> tuple[str, str]:
    return start.protocol, text_hash(str(sorted(tool_hashes(start.tools or []).items())))


def _common(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all of them say."""
    return {key: value for key, value in values[0].items() if all(one.get(key) == value for one in values)}


def matched(arms: Sequence[Arm]) -> list[Arm]:
    """The arms on the held-out tasks that all of them have; each says what was left out.

    Raises UserError where no task is left.
    """
    shared = set.intersection(*(set(arm.tasks) for arm in arms))
    seen = {task for arm in arms for task in shared if not _held_out(arm, task)}
    kept = [task for task in arms[0].tasks if task in shared - seen]
    if not kept:
        what = "have no task in common" if not shared else f"share {len(shared)} tasks, none of them held out"
        remedy = "Play the same tasks with both, held out of the dataset (build --hold-out); see --task-from"
        raise UserError(what, ", ".join(shown(arm.path) for arm in arms), remedy)
    notes = _notes(arms, shared, seen)
    return [_on(arm, kept, notes if arm is arms[0] else ()) for arm in arms]


def _held_out(arm: Arm, task: str) -> bool:
    """Whether a task was kept from the adapter of an arm. Those of the other side of a dataset's split were not, also
    where none of their rows was kept: a base's rollouts that passed decide that, so they would be the hard ones."""
    adapter = arm.record.get("adapter") or {}
    held_out = adapter.get("held_out")
    return task not in (adapter.get("train_tasks") or ()) if held_out is None else task in held_out


def _notes(arms: Sequence[Arm], shared: set[str], seen: set[str]) -> tuple[str, ...]:
    alone = {arm.name: len(set(arm.tasks) - shared) for arm in arms}
    lines = [f"Left out: {count} tasks that only {name} has." for name, count in alone.items() if count]
    if seen:
        lines.append(f"Left out: {len(seen)} tasks that are not held out of the data of an adapter among the arms.")
    settings = {arm.name: arm.record["sampling"] for arm in arms}
    if len({str(sorted(one.items())) for one in settings.values()}) > 1:
        lines.append(f"Sampling differs: {', '.join(f'{name} {one}' for name, one in settings.items())}.")
    unmarked = {arm.name: sum(row.passed is None for row in arm.rows if row.task in shared) for arm in arms}
    lines += [f"Outcome unknown: {count} rollouts of {name}; see mark." for name, count in unmarked.items() if count]
    return tuple(lines)


def _on(arm: Arm, tasks: Sequence[str], notes: tuple[str, ...]) -> Arm:
    rows = tuple(row for row in arm.rows if row.task in tasks)
    rollouts = {task: arm.record["rollouts"][task] for task in tasks}
    record = {**arm.record, "tasks": list(tasks), "rollouts": rollouts, "held_out_groups": len(tasks)}
    return replace(arm, record=record, rows=rows, notes=notes)
