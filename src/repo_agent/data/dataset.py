"""A dataset directory: what it holds, read back a trajectory at a time.

trajectories.jsonl   the source: one trajectory a line, its messages once, its turns as labels
dropped.jsonl        every dropped turn, the gate, and why
dataset.json         contract with schemas, prompts, split, sources, tokenizer, gates, counts, hashes
funnel.json, card.md, audit.html, and what `--export` was asked for
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import msgspec

from repo_agent.data.trajectories import Dropped, Label, Trajectory
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall, digest
from repo_agent.protocols.contract import Contract

RECORD, TRAJECTORIES, DROPPED, FUNNEL = "dataset.json", "trajectories.jsonl", "dropped.jsonl", "funnel.json"
FORMAT = 2
_REMEDY = "Build the dataset again"


@dataclass(frozen=True)
class Dataset:
    """A dataset directory: `record` is its dataset.json."""

    path: Path
    record: dict[str, Any]

    @property
    def contract(self) -> Contract:
        """What the rows were made for."""
        return Contract(self.record["tools"], self.record["protocol"])

    @cached_property
    def hash(self) -> str:
        """Of what it holds."""
        return content_hash(self.record, self.path / TRAJECTORIES)

    @cached_property
    def tasks(self) -> list[str]:
        """Ids of the tasks that the rows come from, sorted."""
        return sorted({trajectory.task for trajectory in self.trajectories()})

    def trajectories(self) -> Iterator[Trajectory]:
        """Its trajectories, one after another. Raises UserError for a line that cannot be read."""
        path = self.path / TRAJECTORIES
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield self._read(line, f"{path}:{number}")
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", str(path), _REMEDY) from error

    def dropped(self) -> Iterator[dict[str, Any]]:
        """The lines of dropped.jsonl; none where the file is not there."""
        path = self.path / DROPPED
        if path.is_file():
            with path.open("rb") as file:
                yield from map(json.loads, file)

    def _read(self, line: bytes, where: str) -> Trajectory:
        try:
            return trajectory_of(json.loads(line), self.contract)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"is no trajectory ({type(error).__name__}: {error})"
            raise UserError(what, where, _REMEDY) from error


def read_dataset(path: Path) -> Dataset:
    """Read a dataset directory. Raises UserError for one that is not there, or of another format."""
    return Dataset(path, read_record(path / RECORD, FORMAT, "build", _REMEDY))


def read_record(path: Path, form: int | str, command: str, again: str) -> dict[str, Any]:
    """The record of a folder that a command made. Raises UserError for one that is not there, or of another format;
    `again` says what to do about that."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = f"Give the folder that `repo-agent {command} --out` made"
        raise UserError(f"cannot be read ({reason})", str(path), remedy) from error
    if not isinstance(record, dict) or record.get("format") != form:
        raise UserError(f"is not of format {form}", str(path), again)
    return record


def content_hash(record: Mapping[str, Any], source: Path) -> str:
    """Of a record, with the hash that the file of its rows has now. Raises UserError for one that cannot be read."""
    try:
        return digest({**record, "files": {**record.get("files", {}), source.name: sha256_of(source)}})
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(source), _REMEDY) from error


def record_text(record: Mapping[str, Any]) -> str:
    """A record as a file to read."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def trajectory_record(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as trajectories.jsonl holds it: up to its last kept turn."""
    last = trajectory.kept[-1]
    turns = [turn for turn in trajectory.turns if turn.at <= last.at]
    return {
        "id": trajectory.id,
        "task": trajectory.task,
        "group": trajectory.group,
        "run": trajectory.run,
        "rollout": trajectory.rollout,
        "trace": trajectory.trace,
        "contract": trajectory.contract.hash,
        "passed": trajectory.passed,
        "served": trajectory.served,
        "reconstructed": trajectory.reconstructed,
        "messages": [message.to_dict() for message in trajectory.messages[: last.at + last.sent_back]],
        "turns": [_turn_record(turn) for turn in turns],
    }


def _turn_record(turn: Label) -> dict[str, Any]:
    record: dict[str, Any] = {"t": turn.t, "at": turn.at, "class": turn.turn_class, "what": turn.what}
    if turn.dropped:
        return {**record, "kept": False, "gate": turn.dropped.gate}
    record |= {"kept": True, "recovers": turn.after_bad}
    record |= {} if turn.sent_back else {"reply": turn.reply.to_dict()}
    return {**record, "prompt_ids": turn.prompt_ids} if turn.prompt_ids else record


def trajectory_of(record: Mapping[str, Any], contract: Contract) -> Trajectory:
    """A trajectory from its line. Raises KeyError, TypeError, ValueError or AttributeError for another shape."""
    messages = [Message.from_dict(message) for message in record["messages"]]
    return Trajectory(
        id=record["id"],
        task=record["task"],
        group=record["group"],
        run=record["run"],
        rollout=record["rollout"],
        trace=record["trace"],
        contract=contract,
        passed=record["passed"],
        served=record["served"],
        reconstructed=record["reconstructed"],
        messages=messages,
        turns=tuple(_label(turn, messages) for turn in record["turns"]),
    )


def _label(record: Mapping[str, Any], messages: list[Message]) -> Label:
    reply = record.get("reply")
    kept = record["kept"]
    at = record["at"]
    shown = messages[at] if at < len(messages) else Message("assistant", "")
    ids = record.get("prompt_ids")
    call = ToolCall(record["what"], {}) if record["what"] not in ("final", record["class"]) else None
    return Label(
        t=record["t"],
        at=at,
        turn_class=record["class"],
        error="",
        reply=Message.from_dict(reply) if reply else shown,
        sent_back=reply is None,
        call=call,
        last=False,
        repeats=False,
        after_bad=record.get("recovers", False),
        raw_unknown=False,
        unseen=None,
        redacted=False,
        prompt_ids=(ids[0], ids[1]) if ids else None,
        dropped=None if kept else Dropped(record["gate"], ""),
    )


def dropped_record(trajectory: Trajectory, turn: Label, dropped: Dropped) -> dict[str, Any]:
    """A dropped turn as dropped.jsonl holds it."""
    return {
        "id": f"{trajectory.id}:{turn.t}",
        "task": trajectory.task,
        "run": trajectory.run,
        "rollout": trajectory.rollout,
        "trace": trajectory.trace,
        "t": turn.t,
        "class": turn.turn_class,
        "what": turn.what,
        "gate": dropped.gate,
        "why": dropped.why,
    }


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as one line of JSON; escapes stand where UTF-8 cannot carry a text."""
    try:
        return msgspec.json.encode(record) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def write_lines(file: IO[bytes], lines: Iterable[bytes]) -> int:
    """Write lines; returns how many."""
    count = 0
    for line in lines:
        file.write(line)
        count += 1
    return count


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
