"""What a pile of traces holds, before anything is built from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.gates import MAX_LENGTH, Ground, commonest_contract, sift
from repo_agent.data.steps import Step, candidates
from repo_agent.messages import canonical_json
from repo_agent.tools.own import load_tools
from repo_agent.tools.verdict import TURN_CLASSES
from repo_agent.traces.read import Trace, read_traces

_TEMPLATE_BYTES = 4_000
"""More than a chat template adds around the messages."""


def inventory(
    paths: Sequence[Path], tools: str | Path | None = None, *, tokenizer: str = "tiny", max_length: int = MAX_LENGTH
) -> dict[str, Any]:
    """Runs, passes, runs that nobody marked, turns by class, and `kept`: the rows that pass every gate but the split.

    `problems` lists damaged files, `raw_unknown` counts turns whose raw text was not recorded. Raises UserError.
    """
    traces, problems = read_traces(paths)
    steps = candidates(traces, load_tools(str(tools)) if tools else None)
    counts = Counter(step.turn_class for step in steps)
    kept, _ = sift(steps, Ground(commonest_contract(steps), None, _length(tokenizer, max_length), max_length))
    return {
        "runs": len(traces),
        "passed": sum(trace.passed is True for trace in traces),
        "unknown": sum(trace.passed is None for trace in traces),
        "turns": {name: counts[name] for name in TURN_CLASSES if counts[name]},
        "kept": len(kept),
        "raw_unknown": sum(step.raw_unknown for step in steps),
        "problems": [*problems, *([] if tools else _without_schemas(traces))],
    }


def _without_schemas(traces: Sequence[Trace]) -> list[str]:
    found = [trace for trace in traces if trace.source != "loop" and not trace.tools]
    if not found:
        return []
    return [f"{found[0].path} and {len(found) - 1} more hold no tool schemas, so nobody can judge them; give --tools"]


def _length(tokenizer: str, max_length: int) -> Callable[[Step], int]:
    """Tokens of a row, or a bound on them where that is enough: no token covers less than one byte.

    So the tokenizer is loaded only for a row that may be too long.
    """
    load = cache(lambda: load_tokenizer(tokenizer))

    def length(step: Step) -> int:
        messages = (*step.context, step.target)
        printed = [step.contract.tools, [message.to_dict() for message in messages]]
        bound = len(canonical_json(printed).encode()) + _TEMPLATE_BYTES
        if bound <= max_length:
            return bound
        return len(step.contract.renderer(load()).rows(messages, [len(step.context)])[0].input_ids)

    return length
