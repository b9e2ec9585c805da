"""A comparison as one self-contained HTML file beside its JSON. Figures lead to tasks, tasks to rollouts and traces."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from repo_agent.errors import UserError
from repo_agent.escape import visible
from repo_agent.evaluate import metrics
from repo_agent.evaluate.advice import leaks, percent, points, smallest_effect
from repo_agent.evaluate.arms import Arm, Row, rollouts_of, shown
from repo_agent.evaluate.comparison import Comparison, compare_runs, cost_rank
from repo_agent.evaluate.pairs import Pair
from repo_agent.evaluate.verdict import DECIDING, VALIDITY
from repo_agent.files import new_directory
from repo_agent.report import forgetting, plots
from repo_agent.report.terminal import bare_p, plain
from repo_agent.tools.verdict import LADDER, TURN_CLASSES, UNSCORED
from repo_agent.traces.events import LlmAction
from repo_agent.traces.read import read_events

REPORT, DATA = "report.html", "comparison.json"
TONES = dict.fromkeys(("better", "better_validity", "better_pass_rate", "better_alone"), "better") | dict.fromkeys(
    ("mixed", "worse"), "worse"
)
"""Label → how the page colours it."""
_EXAMPLES = 4
_EXAMPLE_CHARS = 900


def compare(run_dirs: Sequence[Path], out: Path) -> Comparison:
    """Compare runs and write report.html and comparison.json into the new directory `out`, both or neither.

    Raises UserError where `out` exists, and where the runs cannot be compared (see `arms.load_arms`).
    """
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    comparison = compare_runs(run_dirs)
    data = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(comparison, out)
    with new_directory(out) as folder:
        (folder / REPORT).write_text(page, encoding="utf-8")
        (folder / DATA).write_text(data, encoding="utf-8", errors="backslashreplace")
    return comparison


def render(comparison: Comparison, out: Path) -> str:
    """The page, with trace links relative to the folder `out` that it will lie in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": plain, "p": bare_p, "colour": plots.colour_of}
    link = partial(_link, out=out)
    return environment.get_template("report.html.j2").render(
        c=comparison,
        tone=TONES.get(comparison.verdict.label, ""),
        ladder_names=LADDER,
        turn_classes=[name for name in TURN_CLASSES if any(name in arm.classes for arm in comparison.arms)],
        summaries=[_summary(arm) for arm in comparison.arms],
        figures=_figures(comparison),
        pairs=[_pair_cells(pair) for pair in comparison.pairs],
        tasks=_tasks(comparison),
        endings=sorted({row.ended for arm in comparison.arms for row in arm.rows}),
        ended=[Counter(row.ended for row in arm.rows) for arm in comparison.arms],
        examples=_examples(comparison, link),
        of_how_many=_of_how_many(comparison.reference),
        leaks=leaks(comparison.arms),
        caveats=caveats(comparison),
        probes=forgetting.rows(comparison),
        changed=forgetting.changed(comparison, _cut),
        provenance=_provenance(comparison),
        link=link,
    )


def _link(arm: Arm, row: Row, out: Path) -> str:
    """Relative URL of a trace; `%` of an encoded folder name is encoded once more."""
    return quote(os.path.relpath((arm.path / row.trace).resolve(), out.resolve()))


def _summary(arm: Arm) -> dict[str, Any]:
    figures: dict[str, Any] = {name: metrics.overall(arm, name) for name in metrics.METRICS}
    extra = {"any_pass": metrics.any_pass(arm), "all_pass": metrics.all_pass(arm)}
    return figures | extra | {"arm": arm, "unscored": metrics.unscored_tasks(arm)}


def _figures(comparison: Comparison) -> list[tuple[str, str, Markup]]:
    """(heading, what it shows, SVG). The SVG is ours, its texts escaped by matplotlib: the one thing marked as safe."""
    arms, tuned = comparison.arms, comparison.tuned.name
    shares = [
        pair
        for pair in comparison.pairs
        if tuned in (pair.a, pair.b) and pair.metric not in (*metrics.PER_ROLLOUT, "executes")
    ]
    drawn = [
        (
            "Differences",
            "Points with 95% intervals over tasks. Grey: the interval holds 0; hollow: there is none.",
            plots.forest(shares, "Differences between arms with 95% intervals"),
        ),
        (
            "Validity by task",
            "Each line is a task, each mark an arm.",
            plots.dots(arms, "validity", "Validity of each task in each arm"),
        ),
        (
            "Validity ladder",
            "Share of scored turns past each rung, mean over tasks.",
            plots.ladder(arms, "Share of scored turns past each rung of the ladder"),
        ),
        (
            "Turn classes",
            "All turns of all rollouts, pooled.",
            plots.classes(arms, "Turns by family of turn class"),
        ),
    ]
    return [(heading, text, Markup(svg)) for heading, text, svg in drawn]


def _pair_cells(pair: Pair) -> dict[str, Any]:
    """A row of the table of pairs, as text: points for shares, plain numbers for calls and steps."""
    per_rollout = pair.metric in metrics.PER_ROLLOUT

    def show(value: float | None) -> str:
        if value is None:
            return "—"
        return f"{value:+.2f}" if per_rollout else points(value, sign=True).removesuffix(" points")

    interval = f"{show(pair.interval.low)} to {show(pair.interval.high)}" if pair.interval else "—"
    return {"pair": pair, "difference": show(pair.difference), "interval": interval}


def _tasks(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry a task: its id, its headline difference, and for every arm validity and rollouts."""
    validity = [metrics.by_task(arm, "validity") for arm in comparison.arms]
    differences = dict(comparison.verdict.pairs[VALIDITY].differences)
    return [
        {
            "id": task,
            "difference": differences.get(task),
            "cells": [
                {"arm": arm, "validity": values[task], "rows": arm.by_task[task], "pending": arm.pending_by_task[task]}
                for arm, values in zip(comparison.arms, validity, strict=True)
            ],
        }
        for task in comparison.arms[0].tasks
    ]


@dataclass(frozen=True)
class ExampleTurn:
    """One reply to show: where it stands, what the verdict made of it, and its text, cut to be read."""

    arm: str
    link: str
    turn: int
    turn_class: str
    text: str
    error: str


def _examples(comparison: Comparison, link: Any) -> list[tuple[str, list[ExampleTurn]]]:
    """(task, turns): an invalid turn of the reference, one of each frequent class, and tuned's beside it."""
    reference, tuned = comparison.reference, comparison.tuned
    invalid = [name for name in reference.classes if name != "ok" and name not in UNSCORED]
    found: list[tuple[str, list[ExampleTurn]]] = []
    for name in invalid[:_EXAMPLES]:
        shown = {task for task, _ in found}
        rows = [row for row in reference.rows if row.classes.get(name)]
        row = next((row for row in rows if row.task not in shown), rows[0])
        first = _example(reference, row, link, lambda action, name=name: action.turn_class == name)
        played = [other for other in tuned.by_task[row.task] if other.steps]
        others = sorted(played, key=lambda other: abs(other.rollout - row.rollout))
        second = [_example(tuned, others[0], link, lambda action, at=first.turn: action.t == at)] if others else []
        found.append((row.task, [first, *second]))
    return found


def _example(arm: Arm, row: Row, link: Any, wanted: Any) -> ExampleTurn:
    """The first turn of a rollout that is `wanted`, else its last."""
    log, _ = read_events(arm.path / row.trace)
    actions = [event for event in log if isinstance(event, LlmAction)]
    action = next((action for action in actions if wanted(action)), actions[-1])
    return ExampleTurn(arm.name, link(arm, row), action.t or 0, action.turn_class, _cut(action.text), action.error)


def _cut(text: str) -> str:
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:_EXAMPLE_CHARS]} […]"


def caveats(comparison: Comparison) -> list[str]:
    """What this comparison does not show, from what was run."""
    arms, record, verdict = comparison.arms, comparison.reference.record, comparison.verdict
    lines = [
        f"One suite, {record['suite']}, {len(comparison.reference.tasks)} tasks, {_each(comparison.reference)}. "
        "Other tasks, other tools, renamed arguments and other prompts were not tried.",
        "The verdict is on one pair of arms, chosen beforehand; no p is corrected for the number of pairs.",
    ]
    if any(arm.base_name == "tiny" for arm in arms):
        lines.insert(
            0,
            "The base model, tiny, was made sloppy on purpose. This demonstrates the machinery; it is no evidence "
            "about a real model.",
        )
    sizes = {metric: smallest_effect(verdict, metric) for metric in DECIDING}
    lines += [
        f"An effect below {points(size)} of {metric.replace('_', ' ')} could not have been seen reliably."
        for metric, size in sizes.items()
        if size is not None
    ]
    if record["split"] not in ("held-out", "recorded"):
        lines.append(f"The tasks are the split {record['split']}, not held-out ones: training may have seen them.")
    if not any(cost_rank(arm, arms) == 1 for arm in arms):
        lines.append("No arm is a constrained base: against a bare base alone, tuning looks better than it need be.")
    for metric in DECIDING:
        if metric in verdict.sides and verdict.pairs[metric].left_out:
            tasks = ", ".join(verdict.pairs[metric].left_out)
            lines.append(f"Left out of {metric.replace('_', ' ')}, since an arm has no value there: {tasks}.")
    return [*lines, *_our_own(arms)]


def _of_how_many(arm: Arm) -> str:
    """` of 3` where each task was played three times."""
    counts = {rollouts_of(arm.record, task) for task in arm.tasks}
    return f"\u00a0of\u00a0{counts.pop()}" if len(counts) == 1 else ""


def _each(arm: Arm) -> str:
    """How often each task was played."""
    counts = sorted({rollouts_of(arm.record, task) for task in arm.tasks})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{'next calls in recorded contexts' if arm.replayed else 'rollouts'} of each: {many}"


def _our_own(arms: Sequence[Arm]) -> list[str]:
    """What our own running leaves open."""
    lines = []
    bare = [arm.name for arm in arms if "unsafe-local" in arm.isolations]
    if bare:
        lines.append(f"Tests of {', '.join(bare)} ran without isolation (unsafe-local): code could reach its grader.")
    ours = {arm.name: arm.classes.get("infra_error", 0) for arm in arms if arm.classes.get("infra_error")}
    lines += [f"{name}: {count} turns ended by our own error; they are not scored." for name, count in ours.items()]
    raw = {arm.name: sum(row.raw_unknown for row in arm.rows) for arm in arms}
    lines += [f"{name}: {count} turns came without their raw text." for name, count in raw.items() if count]
    return lines


def _provenance(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """(key of run.json, its value in every arm), one value where all agree; of lists of tasks just the length."""
    lines = []
    keys = dict.fromkeys(key for arm in comparison.arms for key in arm.record if key != "task_hashes")
    for key in keys:
        values = [_plain(arm.record.get(key)) for arm in comparison.arms]
        lines.append((key, values[:1] if len(set(values)) == 1 else values))
    return [*lines, ("run directory", [shown(arm.path) for arm in comparison.arms])]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} tasks"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return "—" if value is None else str(value)
