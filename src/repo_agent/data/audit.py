"""What a person looks at before paying for training: rows with each token coloured by its loss, the first and last
trained token of each kind of turn, and dropped turns by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from typing import Any, NamedTuple

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokens import IGNORE, Tokens
from repo_agent.data.dataset import Dataset
from repo_agent.data.trajectories import Trajectory, rows

ROWS = 8
"""Rows that are shown."""
SAMPLE = 200
"""Trajectories whose turns are looked at; the dropped turns are counted over all."""
SHOWN_TOKENS = 2_500
"""Of a longer row the rest is not shown."""
_REASONS = 12
_STYLE = """
:root{color-scheme:light dark;--line:#8884}body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;
padding:0 1rem}pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.6 ui-monospace,monospace;border:1px solid
var(--line);border-radius:6px;padding:.8rem}b{font-weight:400;background:#009e7333;border-bottom:2px solid #009e73}
b+b,i+i{border-left:1px solid var(--line)}i{font-style:normal;opacity:.75}table{border-collapse:collapse;margin:1rem 0}
td,th{border-bottom:1px solid var(--line);padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
td.n{text-align:right}code{font:13px ui-monospace,monospace}.wide{overflow-x:auto}
"""


class Shown(NamedTuple):
    """A token of a row as text, and whether it carries loss. Bytes of one character are shown together."""

    text: str
    trained: bool


@dataclass
class Kind:
    """Turns of one kind: a tool's calls, or finals."""

    turns: int = 0
    tokens: int = 0
    first: Counter[str] = field(default_factory=Counter)
    last: Counter[str] = field(default_factory=Counter)


@dataclass
class Audit:
    """A look through a dataset."""

    rows: list[tuple[str, str, list[Shown]]]
    """Id, task and tokens of a few rows, one of each task first."""
    kinds: dict[str, Kind]
    reasons: dict[tuple[str, str], int]
    """(gate, why) → turns, most frequent first; what differs from turn to turn in the words is cut off."""


def audit(dataset: Dataset, renderer: Renderer, limit: int = ROWS) -> Audit:
    """Look through the first `SAMPLE` trajectories; `limit` rows are kept to be shown, one a task."""
    shown: list[tuple[str, str, list[Shown]]] = []
    kinds: dict[str, Kind] = {}
    for trajectory in islice(dataset.trajectories(), SAMPLE):
        fresh = trajectory.task not in {task for _, task, _ in shown}
        for row in rows(trajectory):
            for tokens in renderer.rows(row.messages, row.targets):
                _note(kinds, trajectory, tokens, renderer.tokenizer)
                if len(shown) < limit and fresh:
                    shown.append((row.id, trajectory.task, tokens_of(tokens, renderer.tokenizer)))
    reasons = Counter((record["gate"], _reason(record["why"])) for record in dataset.dropped())
    return Audit(shown, dict(sorted(kinds.items())), dict(reasons.most_common()))


def tokens_of(tokens: Tokens, tokenizer: Any) -> list[Shown]:
    """A row's tokens as texts, up to `SHOWN_TOKENS`."""
    ids = tokens.input_ids[:SHOWN_TOKENS]
    inside = [label != IGNORE for label in tokens.labels[:SHOWN_TOKENS]]
    found: list[Shown] = []
    pending: list[int] = []
    for place, (token, trained) in enumerate(zip(ids, inside, strict=True)):
        pending.append(token)
        text = tokenizer.decode(pending, clean_up_tokenization_spaces=False)
        last = place + 1 == len(inside) or inside[place + 1] != trained
        if last or not text.endswith("\ufffd"):
            found.append(Shown(text, trained))
            pending = []
    more = len(tokens.input_ids) - len(ids)
    return [*found, Shown(f" [… {more:,} more tokens]", False)] if more else found


def _note(kinds: dict[str, Kind], trajectory: Trajectory, tokens: Tokens, tokenizer: Any) -> None:
    names = {turn.at: turn.what for turn in trajectory.kept}
    for index, start, end in tokens.spans:
        kind = kinds.setdefault(names[index], Kind())
        kind.turns += 1
        kind.tokens += end - start
        kind.first[tokenizer.decode(tokens.input_ids[start : start + 1])] += 1
        kind.last[tokenizer.decode(tokens.input_ids[end - 1 : end])] += 1


def _reason(why: str) -> str:
    """The part of a reason that many turns share: for `missing_arg: read_file needs …` the class."""
    return why.split(":")[0].split(" (")[0][:80]


def audit_page(dataset: Dataset, renderer: Renderer, limit: int = ROWS) -> str:
    """The audit as one HTML page, without scripts."""
    found = audit(dataset, renderer, limit)
    counts = dataset.record["counts"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Dataset audit</title><style>{_STYLE}</style><h1>Dataset audit</h1>",
        f"<p>{counts['rows']:,} trained turns in {counts['trajectories']:,} trajectories, "
        f"{counts['trained_tokens']:,} tokens with loss of {counts['tokens_merged']:,}. "
        f"Prompts as they ran: {escape(dataset.record['prompts_as_they_ran'])}.</p>",
        f"<h2>First and last trained token of each kind of turn</h2><p>Of the first {SAMPLE} trajectories.</p>",
        _table(
            ("turn", "turns", "tokens", "first token", "last token"), (_kind(*item) for item in found.kinds.items())
        ),
        "<h2>Dropped turns by reason</h2>",
        _table(("gate", "why", "turns"), ((*key, count) for key, count in [*found.reasons.items()][:_REASONS])),
        "<p>All of them: <code>dropped.jsonl</code>.</p>",
        f"<h2>{len(found.rows)} rows</h2><p><b>Green</b> carries loss; a thin line parts tokens.</p>",
        *(_section(*row) for row in found.rows),
        "</html>\n",
    ]
    return "\n".join(parts)


def _section(name: str, task: str, shown: Sequence[Shown]) -> str:
    return f"<h3>{escape(task)}</h3><p><code>{escape(name)}</code></p><pre>{_html(shown)}</pre>"


def _kind(name: str, kind: Kind) -> Sequence[Any]:
    return name, kind.turns, kind.tokens, _few(kind.first), _few(kind.last)


def _few(texts: Counter[str]) -> str:
    return ", ".join(f"{text!r} x{count}" for text, count in texts.most_common(3))


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = isinstance(value, int)
        return f"<td class=n>{value:,}</td>" if number else f"<td>{escape(str(value))}</td>"

    body = "".join(f"<tr>{''.join(map(cell, line))}</tr>" for line in lines)
    return f"<div class=wide><table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{body}</table></div>"


def _html(shown: Sequence[Shown]) -> str:
    return "".join(
        f"<{'b' if token.trained else 'i'}>{escape(token.text)}</{'b' if token.trained else 'i'}>" for token in shown
    )
