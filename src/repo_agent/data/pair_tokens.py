"""Preference pairs as token ids: context and turn, once with the better turn and once with the bad one."""

from __future__ import annotations

from typing import NamedTuple

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.pair_set import PairSet
from repo_agent.data.tokens import Rows
from repo_agent.errors import UserError


class TokenPair(NamedTuple):
    """Two rows that begin with the same context; their last turns carry loss."""

    chosen: Tokens
    rejected: Tokens

    @property
    def length(self) -> int:
        """Tokens that a pass reads: the shorter row is padded."""
        return 2 * max(self.chosen.length, self.rejected.length)

    @property
    def trained(self) -> int:
        """Tokens of both turns."""
        return self.chosen.trained + self.rejected.trained


def pair_rows(made: PairSet, renderer: Renderer, most: int | None) -> Rows[TokenPair]:
    """Raises UserError where `pairs` compared the prompts with another tokenizer, whose pairs these are."""
    compared = made.record["tokenizer"]["fingerprint"]
    if compared != renderer.fingerprint():
        what = f"were made with another tokenizer or chat template ({compared}, the base has {renderer.fingerprint()})"
        raise UserError(what, str(made.path), "Make them again: repo-agent pairs … --tokenizer BASE")
    found = Rows[TokenPair](prompts=dict(made.record["counts"]["prompts"]))
    for row in made.pairs():
        at = len(row.context)
        pair = TokenPair(*(renderer.rows([*row.context, said], [at])[0] for said in (row.chosen, row.rejected)))
        if most is not None and max(pair.chosen.length, pair.rejected.length) > most:
            found.too_long += 1
            found.lost["pair"] += pair.trained
            continue
        found.rows.append(pair)
        found.tasks.append((row.record["task"], row.record["group"]))
    return found
