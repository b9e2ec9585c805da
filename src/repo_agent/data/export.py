"""A dataset directory's files: our own records, chat rows for hosted trainers, token rows; and reading them back.

`steps.jsonl` is the source of all the others. In chat rows every message has a `weight`, 1 on the targets and 0 on all
else, and arguments are JSON strings; everywhere else arguments are objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Tokens
from repo_agent.data.contract import Contract
from repo_agent.data.merge import Trajectory
from repo_agent.data.steps import Step
from repo_agent.errors import UserError
from repo_agent.messages import Message

RECORD, STEPS, TRAJECTORIES, TOKENS = "dataset.json", "steps.jsonl", "trajectories.jsonl", "tokens.jsonl"


@dataclass(frozen=True)
class Dataset:
    """A dataset directory read back: dataset.json, and the rows of steps.jsonl and trajectories.jsonl as written."""

    path: Path
    record: dict[str, Any]
    steps: list[dict[str, Any]]
    trajectories: list[dict[str, Any]]

    def tokens(self) -> list[Tokens]:
        """The pre-tokenised merged rows, made with the tokenizer that the record names. Raises UserError."""
        return [Tokens(row["input_ids"], row["labels"]) for row in _rows(self.path / TOKENS)]

    @property
    def tasks(self) -> list[str]:
        """Ids of the tasks that the rows come from, sorted."""
        return sorted({row["task"] for row in self.steps})

    @property
    def contract(self) -> Contract:
        """What the rows were made for; its `renderer` renders them for any tokenizer."""
        return Contract(self.record["system"], self.record["tools"], self.record["protocol"])


def read_dataset(path: Path) -> Dataset:
    """Read a dataset directory. Raises UserError for a file that is missing or torn, or a dataset without rows."""
    text = _text(path / RECORD)
    try:
        record = json.loads(text)
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", str(path / RECORD), "Build the dataset again") from error
    dataset = Dataset(path, record, _rows(path / STEPS), _rows(path / TRAJECTORIES))
    if not dataset.trajectories:
        raise UserError("holds no rows", str(path), "Build it from runs with passing rollouts")
    return dataset


def write_rows(
    folder: Path,
    steps: Sequence[Step],
    trajectories: Sequence[Trajectory],
    merged: Mapping[str, Sequence[Tokens]],
) -> dict[str, str]:
    """Write all row files into `folder`. Returns the SHA-256 of each by name."""
    files = {
        STEPS: [step_row(step) for step in steps],
        TRAJECTORIES: [trajectory_row(row) for row in trajectories],
        "chat_steps.jsonl": [_chat_row(step, (*step.context, step.target), (len(step.context),)) for step in steps],
        "chat_trajectories.jsonl": [_chat_row(row.steps[0], row.messages, row.kept) for row in trajectories],
        TOKENS: [
            {"id": row.id, "input_ids": tokens.input_ids, "labels": tokens.labels}
            for row in trajectories
            for tokens in merged[row.id]
        ],
    }
    return {name: write_jsonl(folder / name, rows) for name, rows in files.items()}


def step_row(step: Step) -> dict[str, Any]:
    """A step as steps.jsonl holds it: provenance, context and target."""
    return {
        "id": step.id,
        **_provenance(step),
        "t": step.t,
        "turn_class": step.turn_class,
        "messages": [message.to_dict() for message in step.context],
        "target": step.target.to_dict(),
    }


def trajectory_row(row: Trajectory) -> dict[str, Any]:
    """A merged row as trajectories.jsonl holds it; `kept` are the indices of the messages with loss."""
    return {
        "id": row.id,
        **_provenance(row.steps[0]),
        "steps": [step.id for step in row.steps],
        "messages": [message.to_dict() for message in row.messages],
        "kept": list(row.kept),
    }


def weighted(messages: Iterable[Message], targets: Iterable[int]) -> list[dict[str, Any]]:
    """Messages as Together and OpenAI take them for fine-tuning: a weight on each, arguments as JSON strings."""
    chosen = set(targets)
    rows: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        row: dict[str, Any] = {"role": message.role, "content": message.content, "weight": int(index in chosen)}
        if message.tool_calls:
            row["tool_calls"] = [
                {
                    "id": f"call_{index}_{number}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.args, ensure_ascii=False)},
                }
                for number, call in enumerate(message.tool_calls)
            ]
        if message.role == "tool":
            row["tool_call_id"] = _last_call_id(rows)
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write one JSON object a line. Returns the file's SHA-256."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def _provenance(step: Step) -> dict[str, Any]:
    return {
        "task": step.task,
        "group": step.group,
        "run": step.run,
        "rollout": step.rollout,
        "trace": step.trace,
        "contract": step.contract.hash,
        "reconstructed": step.reconstructed,
    }


def _chat_row(step: Step, messages: Sequence[Message], targets: Iterable[int]) -> dict[str, Any]:
    row: dict[str, Any] = {"messages": weighted(messages, targets)}
    return {**row, "tools": step.contract.tools} if step.contract.protocol == "native" else row


def _last_call_id(rows: Sequence[dict[str, Any]]) -> str:
    """The call that a tool message answers: the first of the last calling turn without an answer yet."""
    answered = {row.get("tool_call_id") for row in rows}
    calls: list[dict[str, Any]] = next((row["tool_calls"] for row in reversed(rows) if "tool_calls" in row), [])
    return next((call["id"] for call in calls if call["id"] not in answered), "call")


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_text(path).rstrip("\n").split("\n"), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"not valid JSON ({error})", f"{path}:{number}", "Build the dataset again") from error
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "Give the folder that `repo-agent build --out` made"
        raise UserError(f"cannot be read ({error.strerror})", str(path), remedy) from error
