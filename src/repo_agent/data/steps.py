"""Traces to candidate steps: one for every assistant turn, classed afresh, with its context and its provenance."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repo_agent.data.contract import Contract, our_contract, rerendered
from repo_agent.messages import Message, ToolCall, canonical_json, digest
from repo_agent.protocols import PROTOCOLS, Protocol, protocol_named
from repo_agent.redact import redacted
from repo_agent.tools.files import default_registry
from repo_agent.tools.registry import Registry, ToolResult
from repo_agent.tools.verdict import FINALS, Parsed, Verdict, executed, holds_call, judge
from repo_agent.traces.read import Trace, Turn, run_folder

_RAN = frozenset({"ok", "exec_error", "bad_value"})
_READS = re.compile(r"(list|read|grep|find|search|view|show|get|open|cat|ls|glob)(_|$)")
"""Names of tools that leave the workspace as it is. Any other call may change it, so what follows is no repeat."""
_BEFORE = r"(?:(?<![\w.~-])(?<!:/)|(?<=\\[nrt]))"
"""Where an absolute path may begin: not inside a name or after a URL's //, but after an escaped newline or tab."""
_HOME = re.compile(_BEFORE + r"/(?:home|Users)/[^/\s\"'\\:]+")


@dataclass(frozen=True)
class Step:
    """One assistant turn as a candidate for training."""

    id: str
    task: str
    group: str
    run: str
    """Name of the run directory, or of the folder that the trace lies in."""
    rollout: int | None
    trace: str
    """Path inside the run directory; the file's name where there is none."""
    t: int
    turn_class: str
    contract: Contract
    context: tuple[Message, ...]
    target: Message
    call: ToolCall | None
    passed: bool | None
    """Whether the rollout passed; None where it has no end."""
    last: bool
    """Whether this is the rollout's last turn."""
    repeats: bool
    """Whether the same call stands earlier in the rollout, with no write between."""
    raw_unknown: bool
    reconstructed: bool


def candidates(traces: Iterable[Trace], tools: Registry | None = None, rerender: bool = False) -> list[Step]:
    """Every turn of every trace as a step. `tools` overrides the trace's own schemas; without either, our four."""
    registries: dict[str, Registry] = {}
    steps: list[Step] = []
    for trace in traces:
        key = digest(trace.tools)
        if key not in registries:
            registries[key] = registry_for(trace, tools)
        steps += steps_of(trace, registries[key], rerender)
    return steps


def steps_of(trace: Trace, registry: Registry, rerender: bool = False) -> list[Step]:
    """The steps of one trace, judged by `registry`; with `rerender`, those of a foreign contract in our protocol."""
    own = Contract(trace.system, trace.tools if trace.tools is not None else registry.schemas(), trace.protocol)
    contract = our_contract(registry) if rerender else own
    foreign = contract.hash != own.hash
    said = rerendered(trace, registry) if foreign else [(turn.context, turn.reply) for turn in trace.turns]
    verdicts = classify(trace, registry)
    repeats = _repeats(verdicts)
    run, name = _provenance(trace.path)
    return [
        Step(
            id=f"{run}/{name}:{turn.t}",
            task=trace.task,
            group=trace.group,
            run=run,
            rollout=trace.rollout,
            trace=name,
            t=turn.t,
            turn_class=verdict.turn_class or "ok",
            contract=contract,
            context=tuple(_scrubbed(message) for message in context),
            target=_scrubbed(target),
            call=verdict.call,
            passed=trace.passed,
            last=turn is trace.turns[-1],
            repeats=repeat,
            raw_unknown=turn.text is None or turn.raw_unknown,
            reconstructed=foreign,
        )
        for turn, (context, target), verdict, repeat in zip(trace.turns, said, verdicts, repeats, strict=True)
    ]


def registry_for(trace: Trace, tools: Registry | None) -> Registry:
    """The tools that a trace's turns are judged by. Raises UserError for schemas that are none."""
    if tools is not None:
        return tools
    if trace.source != "loop" and not trace.tools:
        return Registry([])
    return Registry.from_openai(trace.tools, str(trace.path)) if trace.tools else default_registry()


def classify(trace: Trace, registry: Registry) -> list[Verdict]:
    """The verdict on each turn, with its final turn class: how the call fared is taken from the recorded result.

    A call without a recorded result is `infra_error`: left out and counted. Nobody marked the results of another
    agent's calls as good or bad: there a call that the schemas take is `ok`, and a final that was answered `no_call`;
    without schemas its turns are `unjudged`.
    """
    verdicts, any_call = [], False
    protocol = _protocol(trace)
    older, ours = trace.shape == "older", trace.source == "loop"
    for turn in trace.turns:
        if not ours and (turn.turn_class == "infra_error" or not registry.specs):
            verdicts.append(Verdict("infra_error" if turn.turn_class == "infra_error" else "unjudged"))
            continue
        verdict = judge(
            _parsed(turn, protocol, registry, older and trace.protocol == "native")
            if protocol
            else _read_by_agent(turn),
            registry,
            truncated=turn.finish_reason == "length",
            any_call=any_call,
        )
        any_call = any_call or verdict.turn_class is None or (not ours and holds_call(verdict))
        if verdict.turn_class is None:
            verdict = replace(verdict, turn_class=_outcome(turn) if ours else "ok")
        if not ours and verdict.turn_class in FINALS and turn is not trace.turns[-1]:
            verdict = Verdict("no_call", error="a reply without a call, and the agent went on")
        verdicts.append(verdict)
    return verdicts


def scrub(text: str) -> str:
    """`text` without names of home folders, anything shaped like an access key, or what UTF-8 cannot hold.

    Home folders are the user's own, wherever it lies, and all below /home and /Users.
    """
    own = os.path.expanduser("~").rstrip("/")
    if own.startswith("/"):
        text = re.sub(_BEFORE + re.escape(own) + r"(?![\w-]|\.\w)", "~", text)
    kept: str = redacted(_HOME.sub("~", text), ())
    return kept.encode(errors="replace").decode()


def _protocol(trace: Trace) -> Protocol | None:
    """What reads a trace's replies; None for another agent's own wire format, which only that agent reads."""
    if trace.shape == "older":
        return protocol_named("json")
    return PROTOCOLS.get(trace.protocol) if trace.source != "loop" else PROTOCOLS.get(trace.protocol, PROTOCOLS["json"])


def _read_by_agent(turn: Turn) -> Parsed:
    """A turn by the call that its own agent read."""
    return Parsed(call=turn.call, lenient=turn.call) if turn.call else Parsed(fault="no_call", error="no call in it")


def _parsed(turn: Turn, protocol: Protocol, registry: Registry, native: bool) -> Parsed:
    """What a turn says. The last reply of an older native trace has no next request that shows whether it was a call.

    Where it could not be parsed and begins like JSON, it is taken for a call's arguments.
    """
    parsed = protocol.parse(turn.text if turn.text is not None else _spoken(turn), registry.specs)
    begins_like_json = (turn.text or "").lstrip().startswith(("{", "["))
    if turn.broken_arguments or (native and parsed.fault == "no_call" and begins_like_json):
        return Parsed(fault="json_invalid", error="the arguments are no JSON object")
    return parsed


def _spoken(turn: Turn) -> str:
    """A turn without raw text, as its parsed call or final would read."""
    if turn.call:
        return protocol_named("json").render_call(turn.call)
    return json.dumps(turn.final or {})


def _outcome(turn: Turn) -> str:
    if turn.ok is not None:
        return executed(ToolResult(turn.ok, turn.output or "", turn.code))
    return turn.turn_class if turn.turn_class in _RAN else "infra_error"


def _repeats(verdicts: Iterable[Verdict]) -> list[bool]:
    seen: set[str] = set()
    repeats = []
    for verdict in verdicts:
        key = canonical_json([verdict.call.name, verdict.call.args]) if verdict.call else ""
        repeats.append(bool(key) and key in seen)
        if verdict.call and verdict.turn_class == "ok" and not _READS.match(verdict.call.name):
            seen.clear()
        seen.add(key)
    return repeats


def _provenance(path: Path) -> tuple[str, str]:
    folder = run_folder(path)
    if folder is None:
        return path.absolute().parent.name, path.name
    return folder.name, path.absolute().relative_to(folder).as_posix()


def _scrubbed(message: Message) -> Message:
    calls = tuple(ToolCall(call.name, _scrubbed_value(call.args)) for call in message.tool_calls)
    return Message(message.role, scrub(message.content), calls)


def _scrubbed_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _scrubbed_value(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_scrubbed_value(entry) for entry in value]
    return scrub(value) if isinstance(value, str) else value
