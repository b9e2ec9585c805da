"""What a pile of traces holds, before anything is built from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repo_agent.data.classify import Registries
from repo_agent.data.gates import LAST, READ_TEXTS, GateContext, GateSettings, apply_gates
from repo_agent.data.texts import Texts
from repo_agent.data.trajectories import trajectories_of
from repo_agent.tools.own import load_tools
from repo_agent.tools.verdict import TURN_CLASSES
from repo_agent.traces.read import iter_traces

LEFT_OUT = ("split", *sorted(READ_TEXTS), LAST)
"""Gates that are not counted here: they need a suite, every text, or a tokenizer."""


def inventory(paths: Sequence[Path], tools: str | Path | None = None) -> dict[str, Any]:
    """Runs, passes, runs that nobody marked, turns by class, and `kept`: the turns that pass every gate but `LEFT_OUT`.

    `problems` lists damaged files, `raw_unknown` counts turns whose raw text was not recorded, `unchecked` calls by the
    keyword of their tool's schema that would have taken too long to check. Raises UserError.
    """
    registries = Registries(load_tools(str(tools)) if tools else None)
    settings, context = GateSettings().without(LEFT_OUT), GateContext(None, Texts())
    turns: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    runs: Counter[bool | None] = Counter()
    unchecked: Counter[str] = Counter()
    problems: list[str] = []
    raw_unknown, unjudged = 0, list[Path]()
    for _, trace, found in iter_traces(paths):
        problems += found
        if trace is None:
            continue
        runs[trace.passed] += 1
        unjudged += [trace.path] if trace.source != "loop" and not trace.tools and not tools else []
        for trajectory in trajectories_of(trace, registries.of(trace)):
            gated = apply_gates(trajectory, context, settings)
            turns.update(turn.turn_class for turn in gated.turns)
            kept[gated.contract.hash] += len(gated.kept)
            raw_unknown += sum(turn.raw_unknown for turn in gated.turns)
            unchecked.update(what for turn in gated.turns for what in turn.unchecked)
    if not runs and not problems:
        problems.append(f"{', '.join(map(str, paths))}: no trace in it")
    return {
        "runs": runs.total(),
        "passed": runs[True],
        "unknown": runs[None],
        "turns": {name: turns[name] for name in TURN_CLASSES if turns[name]},
        "kept": max(kept.values(), default=0),
        "raw_unknown": raw_unknown,
        "unchecked": dict(unchecked),
        "problems": [*problems, *dict.fromkeys(registries.problems), *_without_schemas(unjudged)],
    }


def _without_schemas(found: Sequence[Path]) -> list[str]:
    if not found:
        return []
    return [f"{found[0]} and {len(found) - 1} more hold no tool schemas, so nobody can judge them; give --tools"]
