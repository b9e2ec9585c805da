"""Traces in, a new dataset directory out."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer, Tokens
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.card import card
from repo_agent.data.contract import Contract
from repo_agent.data.export import RECORD, write_rows
from repo_agent.data.gates import MAX_LENGTH, Funnel, Ground, TaskSplit, agreed_split, commonest_contract, sift
from repo_agent.data.merge import Trajectory, merge
from repo_agent.data.parity import check
from repo_agent.data.steps import Step, candidates, scrub
from repo_agent.errors import InfraError, UserError
from repo_agent.tools.own import load_tools
from repo_agent.traces.read import Trace, read_traces, run_folder

_FOLDERS = re.compile(r"(?<![\w/.])(?:~|\.\.?)?/(?!/)[^\s+@=]*/")
"""The folders of an absolute path, or of one that begins with ~ or a dot; no part of a URL or of a hub name."""


def build(
    paths: Sequence[Path],
    out: Path,
    *,
    suite_split: TaskSplit | None = None,
    tools: str | Path | None = None,
    rerender: bool = False,
    no_split: bool = False,
    tokenizer: str = "tiny",
    max_length: int = MAX_LENGTH,
    near: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the dataset `out` from the traces under `paths`; returns its counts.

    `tools`: a module of tools or a file of OpenAI schemas, to judge by. `rerender`: put another agent's traces into our
    protocol. `max_length`: tokens of `tokenizer`. `near`: what was found of near-duplicate programs across the split
    (see `evaluate.duplicates`); None: not checked, and the card says so.

    Raises UserError for bad input, an `out` that exists, or when no row is left (the message holds the funnel); then
    nothing is written.
    """
    if out.exists():
        raise UserError("exists already", str(out), "Choose another --out, or remove it")
    registry = load_tools(str(tools)) if tools else None
    traces, problems = read_traces(paths)
    if not traces:
        places = ", ".join(map(str, paths))
        raise UserError("no trace with a whole line in it", places, "Give run directories or folders of traces")
    split = None if no_split else agreed_split([trace.path for trace in traces], suite_split)
    made = _make(candidates(traces, registry, rerender), split, tokenizer, max_length)
    record = _record(made, traces, split, tokenizer, max_length)
    _write(out, made, {**record, "near_duplicates": near and dict(near)})
    pairs = near["pairs"] if near else None
    return {**made.counts, "near_duplicates": None if pairs is None else len(pairs), "problems": problems}


@dataclass(frozen=True)
class _Made:
    """All rows of a dataset before they are written."""

    steps: list[Step]
    funnel: Funnel
    trajectories: list[Trajectory]
    step_tokens: dict[str, Tokens]
    merged_tokens: dict[str, list[Tokens]]
    renderer: Renderer

    @property
    def contract(self) -> Contract:
        return self.steps[0].contract

    @property
    def merged_lengths(self) -> list[int]:
        return [len(tokens.input_ids) for rows in self.merged_tokens.values() for tokens in rows]

    @cached_property
    def counts(self) -> dict[str, Any]:
        """The figures of the command's JSON."""
        return {
            "candidates": self.funnel.candidates,
            "funnel": self.funnel.totals(),
            "rows": self.funnel.rows,
            "merged_rows": len(self.merged_lengths),
            "trained_tokens": sum(tokens.trained for tokens in self.step_tokens.values()),
            "tokens_steps": sum(len(tokens.input_ids) for tokens in self.step_tokens.values()),
            "tokens_merged": sum(self.merged_lengths),
        }


def _make(steps: list[Step], split: TaskSplit | None, tokenizer: str, max_length: int) -> _Made:
    if len({step.id for step in steps}) < len(steps):
        raise UserError("two run directories have the same name", "build", "Rename one, so that rows can be traced")
    winner = commonest_contract(steps)
    contracts = [step.contract for step in steps if step.contract.hash == winner]
    renderer = contracts[0].renderer(load_tokenizer(tokenizer)) if contracts else Renderer(None)
    cache: dict[str, Tokens] = {}

    def length(step: Step) -> int:
        cache[step.id] = renderer.rows((*step.context, step.target), [len(step.context)])[0]
        return len(cache[step.id].input_ids)

    train = frozenset(split.train) if split else None
    rows, funnel = sift(steps, Ground(winner, train, length, max_length))
    if not rows:
        raise UserError(
            f"no row is left: {funnel.line()}", "build", "Give runs whose rollouts pass, or look at the gates"
        )
    trajectories = merge(rows)
    merged = {row.id: renderer.rows(row.messages, row.kept) for row in trajectories}
    return _Made(rows, funnel, trajectories, {step.id: cache[step.id] for step in rows}, merged, renderer)


def _record(
    made: _Made, traces: Sequence[Trace], split: TaskSplit | None, tokenizer: str, max_length: int
) -> dict[str, Any]:
    """dataset.json but for the hashes of its files. It names no folder outside the runs."""
    return {
        "format": 1,
        "contract": made.contract.hash,
        "protocol": made.contract.protocol,
        "system": scrub(made.contract.system),
        "tools": made.contract.tools,
        "split": {"train": list(split.train), "held_out": list(split.held_out)} if split else None,
        "sources": _sources(traces),
        "tokenizer": {"name": _placeless(tokenizer), "fingerprint": made.renderer.fingerprint()},
        "max_length": max_length,
        "reconstructed": any(step.reconstructed for step in made.steps),
        "counts": made.counts,
    }


def _sources(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Each run once, with how many of its traces were read."""
    found: dict[tuple[Any, ...], int] = {}
    for trace in traces:
        folder = run_folder(trace.path) or trace.path.absolute().parent
        specs = (trace.arm, trace.model, trace.suite)
        key = (folder.name, *(spec and _placeless(spec) for spec in specs))
        found[key] = found.get(key, 0) + 1
    return [
        {"run": run, "arm": arm, "model": model, "suite": suite, "traces": count}
        for (run, arm, model, suite), count in found.items()
    ]


def _placeless(spec: str) -> str:
    """A model's or a suite's spec with the last part of each path alone: `local:x` for `local:/home/me/x`."""
    return _FOLDERS.sub("", spec)


def _write(out: Path, made: _Made, record: dict[str, Any]) -> None:
    """Fill a sibling folder, then rename it: `out` is there whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}")
    folder.mkdir()
    try:
        record = {**record, "files": write_rows(folder, made.steps, made.trajectories, made.merged_tokens)}
        parity = check(made.trajectories, made.step_tokens, made.merged_tokens, made.renderer)
        if not parity.holds:
            raise InfraError("build", f"merged rows do not train what step rows train: {parity.line()}")
        (folder / RECORD).write_text(_json({**record, "parity": parity.line()}), encoding="utf-8")
        (folder / "funnel.json").write_text(_json(made.funnel.to_dict()), encoding="utf-8")
        text = card(record, made.steps, made.funnel, made.merged_lengths, parity)
        (folder / "card.md").write_text(text, encoding="utf-8")
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
