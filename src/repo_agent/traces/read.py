"""Reads traces back: typed events, rebuilt contexts, both shapes. Damage at the tail of a file is a listed problem.

A process that was killed leaves a torn last line or no `run_end`: the trace reads, short of that. A line that is no
JSON in the middle, a line that is missing, or an event of an unknown kind means that the file is not what it seems:
UserError with file and line, since contexts rebuilt from it would be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.traces import events
from repo_agent.traces.older import older_trace
from repo_agent.traces.trace import REMEDY, Trace, Turn

__all__ = ["Trace", "Turn", "find_traces", "read_events", "read_lines", "read_trace", "read_traces", "run_folder"]


_HAVE_RESULTS = ("ok", "exec_error")
"""Turn classes of calls that ran."""


def read_trace(path: Path) -> Trace:
    """Read one trace of either shape. Raises UserError as the module says, and for a file without a whole line."""
    records, problems = read_lines(path)
    if not records:
        raise UserError("holds no whole line, so no run", str(path), REMEDY)
    return _trace(path, records, problems)


def read_traces(paths: Iterable[Path]) -> tuple[list[Trace], list[str]]:
    """Every trace under the given paths, and the problems met, each with its file; files without a run among them."""
    traces, problems = [], []
    for path in find_traces(paths):
        records, torn = read_lines(path)
        if not records:
            problems.append(f"{path}: holds no whole line, so no run")
            continue
        trace = _trace(path, records, torn)
        traces.append(trace)
        problems += trace.problems
    return traces, problems


def find_traces(paths: Iterable[Path]) -> list[Path]:
    """The trace files under each path: a run directory's whole ones, any other folder's *.jsonl, a file itself.

    Raises UserError for a path that is not there.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError("not there", str(path), "Give a run directory, a folder of traces, or a trace")
        files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"), key=_by_number)
        found += [file for file in files if path.is_file() or _is_trace_place(file)]
    return list({file.resolve(): file for file in found}.values())


def run_folder(trace: Path) -> Path | None:
    """The run directory that a trace lies in, or None."""
    folder = trace.absolute().parent.parent.parent
    return folder if (folder / "run.json").is_file() else None


def read_events(path: Path) -> tuple[list[events.AnyEvent], list[str]]:
    """The typed events of a trace of our own shape, and the problems met. Raises UserError as the module says."""
    records, problems = read_lines(path)
    return [event for _, event in _typed(path, records)], problems


def read_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """The JSON objects of a file with their line numbers; a torn last line is dropped and listed."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path), "Is the path right?") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    records = []
    for number, line in filled:
        record = _object(line)
        if record is not None:
            records.append((number, record))
        elif number == filled[-1][0]:
            return records, [f"{path}:{number}: torn last line, dropped"]
        else:
            raise UserError("not a JSON object", f"{path}:{number}", REMEDY)
    return records, []


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _trace(path: Path, records: Sequence[tuple[int, dict[str, Any]]], problems: list[str]) -> Trace:
    if "payload" in records[0][1]:
        return older_trace(path, records, problems)
    return _v1_trace(path, _typed(path, records), problems)


def _typed(path: Path, records: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, events.AnyEvent]]:
    typed = []
    for number, record in records:
        try:
            typed.append((number, events.ADAPTER.validate_python(record)))
        except pydantic.ValidationError as error:
            kind, detail = record.get("kind"), error.errors()[0]
            what = f"an event of kind {kind!r} that this version does not know ({detail['msg']})"
            raise UserError(what, f"{path}:{number}", "Read it with the version that wrote it, or remove it") from error
    return typed


def _v1_trace(path: Path, log: list[tuple[int, events.AnyEvent]], problems: list[str]) -> Trace:
    start, end = log[0][1], log[-1][1]
    if not isinstance(start, events.RunStart):
        raise UserError("does not begin with run_start: a line is missing", f"{path}:{log[0][0]}", REMEDY)
    whole = isinstance(end, events.RunEnd)
    if not whole:
        problems = [*problems, f"{path}:{log[-1][0]}: ends without run_end, so it counts as not passed"]
    return Trace(
        path=path,
        shape="v1",
        task=start.task,
        group=start.group,
        suite=start.suite,
        rollout=start.rollout,
        arm=start.arm,
        model=start.model,
        protocol=start.protocol,
        system=start.system,
        tools=start.tools,
        ended=end.ended if isinstance(end, events.RunEnd) else None,
        passed=end.passed if isinstance(end, events.RunEnd) else None,
        turns=tuple(_v1_turns(path, start.system, log)),
        whole=whole,
        problems=tuple(problems),
    )


def _v1_turns(path: Path, system: str, log: list[tuple[int, events.AnyEvent]]) -> list[Turn]:
    """Turns with their contexts put together again from what each request added."""
    turns: list[Turn] = []
    messages, asked = [Message("system", system)], False
    for number, event in log:
        if isinstance(event, events.LlmRequest):
            if event.sent != len(messages) or asked:
                raise UserError("a line is missing before this request", f"{path}:{number}", REMEDY)
            if turns and turns[-1].ok is None and turns[-1].turn_class in _HAVE_RESULTS:
                raise UserError("the result of the call before this request is missing", f"{path}:{number}", REMEDY)
            messages += [_message(message, f"{path}:{number}") for message in event.messages]
            asked = True
        elif isinstance(event, events.LlmAction):
            if not asked:
                raise UserError("the request of this reply is missing", f"{path}:{number}", REMEDY)
            asked = False
            turns.append(_v1_turn(event, messages, f"{path}:{number}"))
            messages.append(turns[-1].reply)
        elif isinstance(event, events.ToolResultEvent | events.Final):
            if not turns or turns[-1].t != event.t:
                raise UserError(f"the reply before this {event.kind} is missing", f"{path}:{number}", REMEDY)
            turns[-1] = _with(turns[-1], event)
    return turns


def _message(message: events.WireMessage, where: str) -> Message:
    try:
        return Message.from_dict(message.model_dump())
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a message with a call that cannot be read ({error})", where, REMEDY) from error


def _v1_turn(action: events.LlmAction, messages: list[Message], where: str) -> Turn:
    return Turn(
        t=action.t or 0,
        context=tuple(messages),
        text=action.text,
        reply=Message("assistant", action.text),
        call=_call(action.call, where) if action.call else None,
        finish_reason=action.finish_reason,
        turn_class=action.turn_class,
    )


def _call(call: dict[str, Any], where: str) -> ToolCall:
    name, args = call.get("name"), call.get("args")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise UserError("a call without a name or without args", where, REMEDY)
    return ToolCall(name, args)


def _with(turn: Turn, event: events.ToolResultEvent | events.Final) -> Turn:
    if isinstance(event, events.Final):
        return replace(turn, final=event.value)
    return replace(turn, ok=event.ok, code=event.code, output=event.output)


def _by_number(path: Path) -> tuple[Path, int, str]:
    return path.parent, len(path.stem), path.stem


def _is_trace_place(file: Path) -> bool:
    """Whether a *.jsonl below a folder is a trace: of a run directory, only what lies in `traces/`."""
    run = next((folder for folder in file.parents if (folder / "run.json").is_file()), None)
    return run is None or file.relative_to(run).parts[0] == "traces"
