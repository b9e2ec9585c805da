"""The gate before any money is spent: what Together makes of the file's first rows, compared token by token.

Two programs have rendered the rows: ours with the base's tokenizer on this machine, Together's with its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repo_agent.chat.tokens import IGNORE, Tokens
from repo_agent.errors import UserError
from repo_agent.train.together.rows import PREVIEWED, Upload


@dataclass
class Preview:
    """What the comparison came to."""

    rows: int = 0
    tokens: int = 0
    trained: int = 0
    ids: list[str] = field(default_factory=list)
    """The rows whose ids differ: where, and how. Nothing cures them."""
    labels: list[str] = field(default_factory=list)
    """The rows whose ids are equal and whose loss is on other tokens."""
    unseen: list[str] = field(default_factory=list)
    """Shapes of rows that no previewed row has."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "trained_tokens": self.trained,
            "other_labels": len(self.labels),
            "shapes_not_previewed": self.unseen,
        }


def compare(upload: Upload[Tokens], theirs: Sequence[Any], tokenizer: Any) -> Preview:
    """Compare the first rows of the file with a preview's, in the same order."""
    found = Preview()
    for number, (own, row) in enumerate(zip(upload.rows[:PREVIEWED], theirs, strict=False), 1):
        found.rows += 1
        found.tokens += len(own.expected.input_ids)
        found.trained += own.expected.trained
        if fault := other_ids(own.expected, row, tokenizer):
            found.ids.append(f"row {number}: {fault}")
        elif fault := other_labels(own.expected, row.labels, tokenizer):
            found.labels.append(f"row {number}: {fault}")
    shown = {name for own in upload.rows[: found.rows] for name in own.shape}
    found.unseen = sorted({name for own in upload.rows for name in own.shape} - shown)
    return found


def refuse(found: Preview, accept_labels: bool, where: str) -> None:
    """Raise UserError where Together would train on something else than this dataset's rows."""
    if not found.rows:
        raise UserError("its preview holds no row", where, "Give the same command with --resume later")
    if found.ids:
        what = f"Together makes other tokens of {len(found.ids)} of {found.rows} previewed rows; {found.ids[0]}"
        raise UserError(what, where, "Is --base the very model that --together-model names, with its chat template?")
    if found.labels and not accept_labels:
        what = f"Together puts the loss on other tokens in {len(found.labels)} of {found.rows} previewed rows"
        remedy = "Train locally, or add --together-accept-labels if these tokens may have that loss"
        raise UserError(f"{what}; {found.labels[0]}", where, remedy)


def other_ids(own: Tokens, row: Any, tokenizer: Any) -> str:
    """How their ids differ from ours; "" where ours are the beginning of theirs."""
    if row.truncated:
        return f"cut to {len(row.input_ids)} tokens, here it has {len(own.input_ids)}"
    for place, (mine, other) in enumerate(zip(own.input_ids, row.input_ids, strict=False)):
        if mine != other:
            return f"token {place} is {_shown(tokenizer, other)}, here it is {_shown(tokenizer, mine)}"
    if len(row.input_ids) < len(own.input_ids):
        return f"it has {len(row.input_ids)} tokens, here {len(own.input_ids)}"
    if len(row.labels) != len(row.input_ids):
        return f"{len(row.labels)} labels for {len(row.input_ids)} tokens"
    return ""


def other_labels(own: Tokens, theirs: Sequence[int], tokenizer: Any) -> str:
    """How their loss differs from ours. What follows our last token must have none."""
    mine = [*own.labels, *[IGNORE] * (len(theirs) - len(own.labels))]
    more = [place for place, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a == IGNORE != b]
    fewer = [place for place, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b and a != IGNORE]
    said = []
    if more:
        said.append(f"{len(more)} more tokens have loss, the first {_shown(tokenizer, theirs[more[0]])} at {more[0]}")
    if fewer:
        said.append(f"{len(fewer)} tokens have none, the first {_shown(tokenizer, mine[fewer[0]])} at {fewer[0]}")
    return " and ".join(said)


def _shown(tokenizer: Any, token: int) -> str:
    return f"{token} {tokenizer.decode([token])!r}"
