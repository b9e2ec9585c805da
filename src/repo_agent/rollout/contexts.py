"""Recorded contexts to ask a model for the next call in: of each held-out task a few, chosen by hash, each once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path

from repo_agent.messages import Message, ToolCall, digest, key_of, said_key
from repo_agent.protocols import PROTOCOLS
from repo_agent.protocols.contract import Contract, contract_of
from repo_agent.tools.files import default_registry
from repo_agent.tools.registry import Registry
from repo_agent.traces.read import iter_traces
from repo_agent.traces.trace import Trace, Turn


@dataclass(frozen=True)
class Context:
    """What an agent had said and seen before one of its turns."""

    task: str
    group: str
    said: Sequence[Message]
    """The whole conversation, which the contexts of a rollout share."""
    at: int
    """Where the turn is in it."""
    writes: tuple[ToolCall, ...]
    """The calls before it that changed files."""
    key: str
    """Hash of the messages, but for the ids of calls."""
    parallel: bool
    """Whether its agent takes several calls in a reply."""
    runnable: Path | None
    """The run directory of ours that it comes from: its calls can run; None for another agent's."""
    asked: frozenset[bytes] = frozenset()
    """Keys (`call_key`) of the calls that were made since files last changed: their answers are there to read."""
    passing: bool = False
    """Whether nothing is left to do: the rollout passed, and no later turn of it changed a file."""

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self.said[: self.at])

    @property
    def system(self) -> str:
        """The system prompt; "" where there is none."""
        return self.said[0].content if self.said[0].role == "system" else ""


@dataclass
class Contexts:
    """The contexts of one contract: `by_task` holds those of each task, in the order of their hashes."""

    contract: Contract
    by_task: Mapping[str, Sequence[Context]]
    registry: Registry
    left_out: Counter[str] = field(default_factory=Counter)
    """Why a turn's context is not among them → turns."""
    problems: list[str] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """16 hex digits: which contexts these are."""
        return digest({task: [context.key for context in found] for task, found in self.by_task.items()})


def contexts_of(
    paths: Sequence[Path], tasks: Collection[str] | None, per_task: int, given: Registry | None = None
) -> Contexts:
    """At most `per_task` different contexts of each of the `tasks` (None: of all), of the contract that most turns
    have. `given`: the agent's tools, where the traces do not tell them or where theirs can run."""
    ours = given or default_registry()
    writes = frozenset(spec.name for spec in ours.specs.values() if spec.writes)
    found: dict[str, dict[str, dict[str, Context]]] = {}
    contracts: dict[str, Contract] = {}
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    turns: Counter[str] = Counter()
    for _, trace, met in iter_traces(paths):
        problems += met
        if trace is None:
            continue
        why = _unfit(trace, tasks, given)
        if why:
            left_out[why] += len(trace.turns)
            continue
        contract = Contract(trace.tools or ours.schemas(), trace.protocol)
        contracts.setdefault(contract.hash, contract)
        turns[contract.hash] += len(trace.turns)
        kept = found.setdefault(contract.hash, {}).setdefault(trace.task, {})
        for context in _contexts(trace, writes, left_out):
            kept.setdefault(context.key, context)
        if len(kept) > 4 * per_task:
            found[contract.hash][trace.task] = {one.key: one for one in _first(kept, per_task)}
    most = max(turns, key=lambda key: (turns[key], key), default=None)
    if most is None:
        return Contexts(Contract([], "json"), {}, Registry([]), left_out, problems)
    left_out["another contract"] += turns.total() - turns[most]
    by_task = {task: _first(kept, per_task) for task, kept in sorted(found[most].items()) if kept}
    return Contexts(contracts[most], by_task, _registry(contracts[most], ours, given is not None), +left_out, problems)


def _unfit(trace: Trace, tasks: Collection[str] | None, given: Registry | None) -> str | None:
    if tasks is not None and trace.task not in tasks:
        return "on the other side of the split"
    if trace.protocol not in PROTOCOLS or trace.shape == "older":
        return "a format that only its own agent reads"
    return None if trace.tools or given or trace.source == "loop" else "its tools are unknown"


def _contexts(trace: Trace, writes: Collection[str], left_out: Counter[str]) -> Iterator[Context]:
    """The context of each turn; those from which a credential was taken out are no longer what the model saw."""
    said, running, place, redacted = None, hashlib.sha256(), 0, False
    done: list[ToolCall] = []
    asked: frozenset[bytes] = frozenset()
    runnable = trace.run if trace.source == "loop" else None
    last = max((turn.t for turn in trace.turns if _wrote(turn, writes)), default=None)
    for turn in trace.turns:
        redacted = redacted or turn.redacted
        if turn.messages is not said:
            said, running, place = turn.messages, hashlib.sha256(), 0
        for message in turn.messages[place : turn.at]:
            running.update(said_key(message))
        place = turn.at
        if redacted:
            left_out["a credential was replaced in it"] += 1
        elif turn.broken_context:
            left_out["it holds a call that no server takes back"] += 1
        elif turn.at:
            key = running.hexdigest()[:16]
            passing = bool(trace.passed) and last is not None and turn.t > last
            yield Context(
                trace.task,
                trace.group,
                turn.messages,
                turn.at,
                tuple(done),
                key,
                trace.parallel,
                runnable,
                asked,
                passing,
            )
        if turn.call and _wrote(turn, writes):
            done.append(turn.call)
            asked = frozenset()
        asked |= {call_key(call) for call in turn.calls}


def call_key(call: ToolCall) -> bytes:
    """Equal where two calls are the same but for their ids."""
    return key_of([call.name, call.args])


def _wrote(turn: Turn, writes: Collection[str]) -> bool:
    return turn.turn_class == "ok" and turn.call is not None and turn.call.name in writes


def _first(kept: Mapping[str, Context], count: int) -> list[Context]:
    return nsmallest(count, kept.values(), key=lambda context: context.key)


def _registry(contract: Contract, ours: Registry, given: bool) -> Registry:
    """The tools that judge, and run where they are the very ones that the agent had."""
    if given or contract_of(ours, contract.protocol).hash == contract.hash:
        return ours
    return Registry.from_openai(contract.tools, "the tools of these traces")
