"""Reads traces back: typed events, the conversation, every shape. Damage at the tail of a file is a listed problem.

A process that was killed leaves a torn last line or no `run_end`: the trace reads, short of that. A line that is not
JSON in the middle, a line that is missing, or an event of an unknown kind means that the file is not what it seems:
UserError with file and line, since contexts rebuilt from it would be wrong.
"""

from __future__ import annotations

import gc
import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from repo_agent.errors import UserError
from repo_agent.messages import quick_json
from repo_agent.traces import events
from repo_agent.traces.conversation import trace_of
from repo_agent.traces.labels import Labels
from repo_agent.traces.older import older_trace
from repo_agent.traces.trace import REMEDY, Trace, Turn
from repo_agent.traces.v1 import Unpacker

__all__ = ["Trace", "Turn", "find_traces", "iter_traces", "read_events", "read_trace", "read_traces", "run_folder"]

FORMS = "Give a run directory, a folder of traces, or a trace"
SUFFIXES = (".jsonl", ".jsonl.gz")
Lines = Sequence[tuple[int, bytes]]
"""Filled lines with their numbers."""
Typed = list[tuple[int, events.AnyEvent]]


def read_trace(path: Path) -> Trace:
    """Read one trace of any shape. Raises UserError as the module says, and for a file without a whole line."""
    trace, _ = _trace(path, {})
    if trace is None:
        raise UserError("holds no run", str(path), "Give a trace, RUN/traces/TASK/0.jsonl; a torn one can go")
    return trace


def iter_traces(paths: Iterable[Path]) -> Iterator[tuple[Path, Trace | None, list[str]]]:
    """Every trace file under the given paths: its trace, None where it holds no run, and the problems met."""
    labels: dict[Path, Labels | None] = {}
    for path in find_traces(paths):
        with _no_cycles():
            yield path, *_trace(path, labels)


def read_traces(paths: Iterable[Path]) -> tuple[list[Trace], list[str]]:
    """Every trace under the given paths, and the problems met, each with its file; files without a run among them."""
    traces, problems = [], []
    for _, trace, found in iter_traces(paths):
        traces += [trace] if trace else []
        problems += found
    return traces, problems


def find_traces(paths: Iterable[Path]) -> list[Path]:
    """The trace files under each path: a run directory's whole ones, any other folder's *.jsonl, a file itself.

    Raises UserError for a path that is not there.
    """
    found: dict[str, Path] = {}
    real: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            raise UserError("not there", str(path), FORMS)
        files = [path] if path.is_file() else _below(path)
        found |= {_real(file, real): file for file in files}
    return list(found.values())


def run_folder(trace: Path) -> Path | None:
    """The run directory that a trace belongs to, or None."""
    folder = os.path.abspath(trace)
    for _ in range(3):
        folder = os.path.dirname(folder)
    return Path(folder) if os.path.isfile(os.path.join(folder, "run.json")) else None


def read_events(path: Path) -> tuple[list[events.AnyEvent], list[str]]:
    """The typed events of a trace of our own, and the problems met. Raises UserError as the module says."""
    lines, problems = read_lines(path)
    return [event for _, event in _typed(path, lines, _version(path, lines))], problems


def read_first(path: Path) -> events.RunStart:
    """The first event of a trace of our own. Raises UserError as the module says."""
    lines, _ = read_lines(path)
    first = _typed(path, lines[:1], _version(path, lines))[0][1] if lines else None
    if not isinstance(first, events.RunStart):
        raise UserError("does not begin with run_start: a line is missing", str(path), REMEDY)
    return first


def read_lines(path: Path) -> tuple[list[tuple[int, bytes]], list[str]]:
    """The filled lines of a file; a torn last line is dropped and listed."""
    lines = [(number, line) for number, line in enumerate(_bytes(path).split(b"\n"), 1) if line.strip()]
    if lines and record_of(lines[-1][1]) is None:
        number, _ = lines.pop()
        return lines, [f"{path}:{number}: torn last line, dropped"]
    return lines, []


def record_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, or None."""
    try:
        record = quick_json(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Without the search for cycles of objects: what is made of a trace has none, and is let go before the next."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _trace(path: Path, labels: dict[Path, Labels | None]) -> tuple[Trace | None, list[str]]:
    """A trace with its run directory and the outcome that the run's labels give it; `labels` remembers, by folder of
    traces, those that were read."""
    lines, problems = read_lines(path)
    if not lines:
        return None, [f"{path}: no whole line in it, so no run"]
    first = _record(path, lines[0])
    if "payload" in first:
        trace = older_trace(path, lines, problems)
    else:
        trace = trace_of(path, f"v{first.get('v')}", _typed(path, lines, first.get("v")), problems)
    task = path.parent
    if task not in labels:
        run = run_folder(path)
        labels[task] = Labels(run) if run else None
    if (known := labels[task]) is not None:
        passed = known.passed(trace.task, trace.rollout, trace.passed)
        trace = replace(trace, run=known.run, passed=passed)
    return trace, list(trace.problems)


def _version(path: Path, lines: Lines) -> Any:
    return _record(path, lines[0]).get("v") if lines else None


def _typed(path: Path, lines: Lines, version: Any) -> Typed:
    """The events of a file of ours; those of format 1 are brought to today's shape here, and nowhere else."""
    if version == 1:
        return _converted(path, lines)
    typed: Typed = []
    for number, line in lines:
        try:
            typed.append((number, events.read_line(line)))
        except msgspec.ValidationError as error:
            raise _unknown(f"{path}:{number}", line, error) from error
        except (ValueError, RecursionError) as error:
            raise UserError("not a JSON object", f"{path}:{number}", REMEDY) from error
    return typed


def _converted(path: Path, lines: Lines) -> Typed:
    unpacker, typed = Unpacker(), Typed()
    for number, line in lines:
        record = _record(path, (number, line))
        try:
            typed.append((number, events.from_record(unpacker.unpack(record))))
        except (msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
            raise _unknown(f"{path}:{number}", line, error) from error
    return typed


def _record(path: Path, line: tuple[int, bytes]) -> dict[str, Any]:
    record = record_of(line[1])
    if record is None:
        raise UserError("not a JSON object", f"{path}:{line[0]}", REMEDY)
    return record


def _unknown(where: str, line: bytes, error: Exception) -> UserError:
    kind = (record_of(line) or {}).get("kind")
    if kind is None:
        return UserError("no event of a trace: it has no `kind`", where, FORMS)
    what = f"an event of kind {kind!r} that this version does not know ({error})"
    return UserError(what, where, "Read it with the version that wrote it, or remove it")


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "Is the path right, and the file whole?"
        if path.is_dir():
            remedy = "Give one trace file, such as RUN/traces/TASK/0.jsonl"
        raise UserError(f"cannot be read ({reason})", str(path), remedy) from error


def _below(folder: Path) -> Iterator[Path]:
    """The traces below a folder, by number in each: of a run directory, only what is in `traces/`."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        if (names := [name for name in names if name.endswith(SUFFIXES)]) and _is_trace_place(Path(place)):
            yield from (Path(place, name) for name in sorted(names, key=lambda name: (len(name), name)))


def _real(file: Path, folders: dict[str, str]) -> str:
    """Where a file really is; `folders` remembers where theirs are."""
    if file.is_symlink():
        return os.path.realpath(file)
    folder, name = os.path.split(file)
    real = folders[folder] if folder in folders else folders.setdefault(folder, os.path.realpath(folder))
    return f"{real}/{name}"


def _is_trace_place(folder: Path) -> bool:
    run = next((place for place in (folder, *folder.parents) if (place / "run.json").is_file()), None)
    return run is None or folder.relative_to(run).parts[:1] == ("traces",)
