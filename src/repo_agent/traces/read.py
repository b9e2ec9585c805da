"""Reads traces back: typed events, rebuilt contexts, both shapes. Damage at the tail of a file is a listed problem.

A process that was killed leaves a torn last line or no `run_end`: the trace reads, short of that. A line that is no
JSON in the middle, a line that is missing, or an event of an unknown kind means that the file is not what it seems:
UserError with file and line, since contexts rebuilt from it would be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pydantic

from repo_agent.errors import UserError
from repo_agent.traces import events
from repo_agent.traces.older import older_trace
from repo_agent.traces.trace import REMEDY, Trace, Turn
from repo_agent.traces.v1 import v1_trace

__all__ = ["Trace", "Turn", "find_traces", "read_events", "read_lines", "read_trace", "read_traces", "run_folder"]


def read_trace(path: Path) -> Trace:
    """Read one trace of either shape. Raises UserError as the module says, and for a file without a whole line."""
    records, problems = read_lines(path)
    if not records:
        raise UserError("holds no run", str(path), "Give a trace, RUN/traces/TASK/0.jsonl; a torn one can go")
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
    return v1_trace(path, _typed(path, records), problems)


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


def _by_number(path: Path) -> tuple[Path, int, str]:
    return path.parent, len(path.stem), path.stem


def _is_trace_place(file: Path) -> bool:
    """Whether a *.jsonl below a folder is a trace: of a run directory, only what lies in `traces/`."""
    run = next((folder for folder in file.parents if (folder / "run.json").is_file()), None)
    return run is None or file.relative_to(run).parts[0] == "traces"
