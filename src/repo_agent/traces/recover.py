"""Rollouts that a killed recorder left: whole exchanges in a `.part` that nobody holds become whole traces.

Only for runs of `record`: an abandoned rollout of `eval` is played again instead.
"""

from __future__ import annotations

import os
from pathlib import Path

from repo_agent.errors import UserError
from repo_agent.messages import total
from repo_agent.traces import events
from repo_agent.traces.files import lock, same_file
from repo_agent.traces.read import read_events
from repo_agent.traces.store import ERRORS, TRACES, RunDir
from repo_agent.traces.writer import TraceWriter

MARKS = {"marked as passed": True, "marked as failed": False}
"""Driver notes that say what a rollout was marked as before its end."""


def finish_abandoned(run: RunDir) -> list[Path]:
    """End every `.part` of a run without an owner, and return the whole traces. One without a reply goes to errors/."""
    done = []
    for part in sorted((run.path / TRACES).glob("*/*.jsonl.part")):
        fd = os.open(part, os.O_RDWR | os.O_APPEND)
        if not lock(fd) or not same_file(fd, part):
            os.close(fd)
            continue
        writer = TraceWriter(fd, part, part.with_suffix(""), run.path / ERRORS / part.parent.name)
        end = _end(fd, part)
        if end is None:
            writer.fail()
            continue
        writer.emit(end)
        done.append(writer.commit())
    return done


def _end(fd: int, part: Path) -> events.RunEnd | None:
    """The end of a trace; a torn last line is cut off. None where no reply is in it, or it cannot be read."""
    whole = part.read_bytes().rpartition(b"\n")
    os.ftruncate(fd, len(whole[0]) + len(whole[1]))
    try:
        log, _ = read_events(part)
    except UserError:
        return None
    replies = [event for event in log if isinstance(event, events.LlmAction) and event.turn_class != "infra_error"]
    if not replies:
        return None
    notes = [event.note for event in log if isinstance(event, events.DriverNote) and event.note in MARKS]
    return events.RunEnd(
        ended="final" if replies[-1].turn_class == "final" else "killed",
        passed=MARKS[notes[-1]] if notes else None,
        steps=len(replies),
        prompt_tokens=total(event.prompt_tokens for event in replies),
        completion_tokens=total(event.completion_tokens for event in replies),
        seconds=round(log[-1].ts - log[0].ts, 3),
    )
