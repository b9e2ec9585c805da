"""A folder of preference pairs: what it holds, read back, and what others take it for.

pairs.jsonl     one pair a line: the context's messages, `chosen` and `rejected`, and where both come from
dropped.jsonl   every bad turn that is in no pair, the gate, and why
pairs.json      contract with schemas, split, counts, sources, hashes
funnel.json, card.md, and what `--export` was asked for
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from repo_agent.chat.render import Renderer
from repo_agent.data.dataset import content_hash, line_of, read_record
from repo_agent.data.export import weighted
from repo_agent.data.gates import Funnel
from repo_agent.errors import UserError
from repo_agent.escape import markdown
from repo_agent.messages import Message
from repo_agent.protocols.contract import Contract

PAIRS, RECORD, FORMAT = "pairs.jsonl", "pairs.json", "pairs-1"
_REMEDY = "Make the pairs again"
_SHOWN = 10
"""Pairs that the card prints."""
_SHOWN_CHARS = 300


class PairRow(NamedTuple):
    """A pair as it is read back."""

    record: dict[str, Any]
    context: list[Message]
    chosen: Message
    rejected: Message


@dataclass(frozen=True)
class PairSet:
    """A folder of pairs: `record` is its pairs.json."""

    path: Path
    record: dict[str, Any]

    @property
    def contract(self) -> Contract:
        return Contract(self.record["tools"], self.record["protocol"])

    @cached_property
    def hash(self) -> str:
        """Of what it holds."""
        return content_hash(self.record, self.path / PAIRS)

    def pairs(self) -> Iterator[PairRow]:
        """Raises UserError for a line that cannot be read."""
        path = self.path / PAIRS
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                    said = [
                        Message.from_dict(one) for one in (*record["messages"], record["chosen"], record["rejected"])
                    ]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    what = f"is no pair ({type(error).__name__}: {error})"
                    raise UserError(what, f"{path}:{number}", _REMEDY) from error
                yield PairRow(record, said[:-2], said[-2], said[-1])


def read_pairs(path: Path) -> PairSet:
    """Read a folder of pairs. Raises UserError for one that is not there, or is none."""
    return PairSet(path, read_record(path / RECORD, FORMAT, "pairs", _REMEDY))


# --- what others train on


def _trl(made: PairSet, row: PairRow) -> dict[str, Any]:
    tools = made.contract.printed_tools
    more = {"tools": tools} if tools else {}
    prompt = [message.to_dict() for message in row.context]
    return {"prompt": prompt, "chosen": [row.chosen.to_dict()], "rejected": [row.rejected.to_dict()], **more}


def _preferences(made: PairSet, row: PairRow) -> dict[str, Any]:
    """The form of Together's and OpenAI's preference files."""
    *prompt, chosen = _plain([*row.context, row.chosen])
    *_, rejected = _plain([*row.context, row.rejected])
    tools = made.contract.printed_tools
    given = {"messages": prompt, **({"tools": tools} if tools else {})}
    return {"input": given, "preferred_output": [chosen], "non_preferred_output": [rejected]}


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name != "weight"} for one in weighted(messages, [])]


EXPORTS: dict[str, tuple[str, Callable[[PairSet, PairRow], dict[str, Any]]]] = {
    "trl": ("dpo_trl.jsonl", _trl),
    "together": ("dpo_together.jsonl", _preferences),
    "openai": ("dpo_openai.jsonl", _preferences),
}


def spells(row: PairRow, renderer: Renderer) -> bool:
    """Whether a text of a pair spells a special token."""
    return any(renderer.control_tokens(message.content) for message in (*row.context, row.chosen, row.rejected))


def export_pairs(made: PairSet, name: str, renderer: Renderer, say: Callable[[str], None]) -> str:
    """Pairs in which a text spells a special token are left out: in another program it would become one."""
    path, view = EXPORTS[name]
    count = left_out = 0
    with (made.path / path).open("wb") as file:
        for row in made.pairs():
            if spells(row, renderer):
                left_out += 1
                continue
            file.write(line_of(view(made, row)))
            count += 1
    say(f"{name}: {count} pairs" + (f"; {left_out} left out, whose texts spell a special token" if left_out else ""))
    return path


# --- the card


def card(made: PairSet, funnel: Funnel) -> str:
    """What the folder holds, in one page of Markdown: funnel, kinds, and some pairs to read."""
    record, counts = made.record, made.record["counts"]
    lines = ["# Preference pairs", ""]
    if record["split"] is None:
        lines += ["**SPLIT OFF** (`--no-split`): pairs of held-out tasks may be inside.", ""]
    lines += [f"{counts['pairs']} pairs of {counts['tasks']} tasks, contract `{record['contract']}`.", ""]
    lines += [f"Prompts are what ran: {record['prompts_as_they_ran']}.", "", "| candidates | |", "|---|---:|"]
    lines += [f"| all | {funnel.candidates} |"]
    lines += [f"| - {gate} | {count} |" for gate, count in funnel.totals().items() if count]
    lines += [f"| pairs | {funnel.rows} |", ""]
    for title, key in (("what is preferred", "chosen"), ("what was wrong", "rejected")):
        lines += [f"| {title} | pairs |", "|---|---:|"]
        lines += [f"| {markdown(name)} | {count} |" for name, count in sorted(counts[key].items())] + [""]
    lines += ["| file | sha256 |", "|---|---|"]
    lines += [f"| {name} | `{value}` |" for name, value in record["files"].items()] + ["", "## Some of them", ""]
    for row, _ in zip(made.pairs(), range(_SHOWN), strict=False):
        about = row.record
        lines += [f"- {markdown(about['task'])}, {about['class']}, preferred: {about['how']}"]
        lines += [f"    - rejected: {_shown(row.rejected)}", f"    - chosen: {_shown(row.chosen)}"]
    return "\n".join(lines) + "\n"


def _shown(message: Message) -> str:
    calls = [{"name": call.name, "arguments": call.args} for call in message.tool_calls]
    text = message.content + (f" {json.dumps(calls, ensure_ascii=False)}" if calls else "")
    return markdown(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
