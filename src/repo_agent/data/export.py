"""Views of a dataset for other trainers, on request: each a function and a line in `EXPORTS`.

All are made from trajectories.jsonl, one trajectory at a time. A turn whose context or words spell a special token is
left out of every export that another program tokenises: there it would become one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from repo_agent.chat.render import Renderer
from repo_agent.data.dataset import Dataset, line_of
from repo_agent.data.texts import Texts
from repo_agent.data.trajectories import Dropped, Trajectory, rows, steps
from repo_agent.errors import UserError
from repo_agent.messages import Message, call_ids

Records = Iterator[dict[str, Any]]
_BATCH = 500
"""Rows of one group of a Parquet file."""
_PARQUET = "tokens.parquet"
HF = "hf"


@dataclass(frozen=True)
class Source:
    """What an export is made from."""

    dataset: Dataset
    renderer: Renderer

    def trajectories(self) -> Iterator[Trajectory]:
        """Those that another program may tokenise: without turns at or after a special token that is spelt."""
        texts = Texts(spelt=self.renderer.control_tokens)
        for trajectory in self.dataset.trajectories():
            why = {turn.t: texts.control_token(trajectory, turn) for turn in trajectory.kept}
            turns = (
                replace(turn, dropped=Dropped("control_token", why[turn.t])) if why.get(turn.t) else turn
                for turn in trajectory.turns
            )
            yield trajectory.with_turns(turns)

    def tools(self) -> dict[str, Any]:
        """The schemas beside a row, where calls are beside the text."""
        tools = self.dataset.contract.printed_tools
        return {"tools": tools} if tools else {}


def chat_steps(source: Source) -> Records:
    """One step a row: `{"messages": [...]}`, a weight on every message, 1 on the last and 0 on all else."""
    for trajectory in source.trajectories():
        for turn, context in steps(trajectory):
            yield {"messages": weighted([*context, turn.reply], [turn.at]), **source.tools()}


def chat_together(source: Source) -> Records:
    """One trajectory a row, in Together's form: a weight on every message, since any may switch on training of all."""
    for trajectory in source.trajectories():
        for row in rows(trajectory):
            yield {"messages": weighted(row.messages, row.targets), **source.tools()}


def chat_openai(source: Source) -> Records:
    """One trajectory a row, in OpenAI's form, which Fireworks takes too: weights on assistant messages alone."""
    for record in chat_together(source):
        for message in record["messages"]:
            if message["role"] != "assistant":
                del message["weight"]
        yield record


def trl(source: Source) -> Records:
    """One step a row: `{"prompt": [...], "completion": [...]}`, TRL's conversational form; loss on the completion."""
    for trajectory in source.trajectories():
        for turn, context in steps(trajectory):
            messages = [message.to_dict() for message in (*context, turn.reply)]
            yield {"prompt": messages[:-1], "completion": messages[-1:], **source.tools()}


def tokens(source: Source) -> Records:
    """One row of token ids each: `id`, `input_ids`, and `labels`, -100 where there is no loss."""
    for trajectory in source.dataset.trajectories():
        for row in rows(trajectory):
            for number, made in enumerate(source.renderer.rows(row.messages, row.targets)):
                yield {"id": f"{row.id}.{number}", "input_ids": made.input_ids, "labels": made.labels}


def plain(source: Source) -> Records:
    """One trajectory a row, with its provenance: for a dataset that others load."""
    for trajectory in source.trajectories():
        for row in rows(trajectory):
            yield {
                "id": row.id,
                "task": trajectory.task,
                "messages": weighted(row.messages, row.targets),
                "reconstructed": trajectory.reconstructed,
            }


@dataclass(frozen=True)
class Export:
    """A file (or folder) of a dataset, what fills it, and what it is."""

    path: str
    records: Callable[[Source], Records]
    help: str


EXPORTS = {
    "chat-steps": Export("chat_steps.jsonl", chat_steps, "chat messages, one step a row"),
    "chat-trajectories:together": Export("chat_together.jsonl", chat_together, "one trajectory a row, for Together"),
    "chat-trajectories:openai": Export("chat_openai.jsonl", chat_openai, "one trajectory a row, for OpenAI, Fireworks"),
    "trl": Export("trl.jsonl", trl, "prompt and completion, one step a row, for TRL"),
    "parquet": Export(_PARQUET, tokens, "token ids and labels, one trajectory a row"),
    HF: Export(HF, plain, "a folder for datasets.load_dataset, with its card"),
}


def check_exports(names: Iterable[str], known: Iterable[str] = EXPORTS) -> None:
    """Raise UserError for an export that there is not."""
    there = list(known)
    odd = [name for name in names if name not in there]
    if odd:
        raise UserError(f"there is no export {odd[0]!r}", "--export", f"Choose from: {', '.join(there)}")


def export(dataset: Dataset, renderer: Renderer, names: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Write these exports into the dataset's folder. Says of each how large it will be; returns the files' names."""
    source, written = Source(dataset, renderer), []
    for name in dict.fromkeys(names):
        made = EXPORTS[name]
        say(f"{name}: {_size(source, made)}")
        if made.path == _PARQUET:
            _write_parquet(dataset.path / made.path, made.records(source))
            written.append(made.path)
        elif name == HF:
            written += _write_hf(dataset, made.records(source))
        else:
            _write_jsonl(dataset.path / made.path, made.records(source))
            written.append(made.path)
    return written


def weighted(messages: Iterable[Message], targets: Iterable[int]) -> list[dict[str, Any]]:
    """Messages as Together and OpenAI take them for fine-tuning: a weight on each, arguments as JSON strings, tool
    messages with the id of the call that they answer."""
    chosen = set(targets)
    made: list[dict[str, Any]] = []
    for index, (message, ids, answered) in enumerate(call_ids(messages)):
        row: dict[str, Any] = {"role": message.role, "content": message.content, "weight": int(index in chosen)}
        if message.tool_calls:
            row["tool_calls"] = [
                {
                    "id": own,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.args, ensure_ascii=False)},
                }
                for own, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            row["tool_call_id"] = answered or "call"
        made.append(row)
    return made


def _size(source: Source, made: Export) -> str:
    """About how large an export will be, from the texts alone."""
    count = size = left_out = 0
    by_step = made.records in (chat_steps, trl)
    for trajectory in source.trajectories():
        left_out += sum(turn.dropped is not None and turn.dropped.gate == "control_token" for turn in trajectory.turns)
        ends = [turn.at for turn in trajectory.kept]
        sums = _running(trajectory.messages)
        size += sum(sums[at] for at in ends) if by_step else sums[ends[-1]] if ends else 0
        count += len(ends) if by_step else sum(1 for _ in rows(trajectory))
    said = f"{count:,} rows, about {size / 1e6:.1f} MB"
    return f"{said}; {left_out} turns left out, whose texts spell a special token" if left_out else said


def _running(messages: Sequence[Message]) -> list[int]:
    """Bytes of the first n + 1 messages, about."""
    sums, total = [], 0
    for message in messages:
        total += len(message.content) + 60 + sum(len(repr(call.args)) for call in message.tool_calls)
        sums.append(total)
    return [*sums, total]


def _write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("wb") as file:
        file.writelines(map(line_of, records))


def _write_parquet(path: Path, records: Records) -> None:
    import pyarrow
    import pyarrow.parquet

    ids = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema([("id", pyarrow.string()), ("input_ids", ids), ("labels", ids)])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        batch: list[dict[str, Any]] = []
        for record in records:
            batch.append(record)
            if len(batch) == _BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _write_hf(dataset: Dataset, records: Records) -> list[str]:
    folder = dataset.path / HF
    (folder / "data").mkdir(parents=True)
    _write_jsonl(folder / "data" / "train.jsonl", records)
    record = dataset.record
    counts = record["counts"]
    (folder / "README.md").write_text(
        "---\n"
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.jsonl\n"
        "tags:\n- tool-calling\n- agent\n"
        "---\n\n"
        f"# Tool calls of contract `{record['contract']}`\n\n"
        f"{counts['trajectories']} trajectories, {counts['rows']} trained turns, protocol `{record['protocol']}`.\n"
        "Loss is on messages with `weight` 1. Which turns were left out, and why: the dataset's own `card.md`.\n",
        encoding="utf-8",
    )
    return [f"{HF}/data/train.jsonl", f"{HF}/README.md"]
