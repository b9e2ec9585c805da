"""Replay while a model is trained: its next call, drawn greedily, on recorded contexts of tasks that are held back.

Nothing is run: a call counts as valid when its agent's schemas take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.data.trajectories import NextTurn
from repo_agent.models.batch import Batch, Row
from repo_agent.models.local import ends_of
from repo_agent.protocols import PROTOCOLS
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import judge

MAX_TOKENS = 512
"""Of a reply; a longer one is truncated, and no valid call."""
ROWS = 8
"""Contexts at once."""


def replay(model: Any, renderer: Renderer, turns: Sequence[NextTurn], most: int) -> tuple[int, int]:
    """On how many of at most so many contexts the next turn is a valid call, and how many were replayed."""
    import torch

    chosen = _spread([one for one in turns if _is_text(one.contract.protocol)], most)
    if not chosen:
        return 0, 0
    base = model.get_base_model()
    batch = Batch(base, eos=ends_of(base, renderer.tokenizer), known=len(renderer.tokenizer), max_rows=ROWS)
    context = base.config.max_position_embeddings
    waiting, valid, replayed = list(chosen), 0, 0
    running: dict[int, tuple[Row, NextTurn]] = {}
    with torch.no_grad():
        while waiting or batch.running:
            while waiting and not batch.full:
                turn = waiting.pop(0)
                prompt = renderer.prompt_ids(turn.messages)
                if context - len(prompt) < 1:
                    continue
                row = Row(prompt, min(MAX_TOKENS, context - len(prompt)), 0.0, torch.Generator())
                running[id(row)] = (row, turn)
                batch.admit(row)
            for row in batch.leave():
                _, turn = running.pop(id(row))
                valid += _is_valid(renderer, turn, row)
                replayed += 1
            batch.step()
    return valid, replayed


def _is_text(protocol: str) -> bool:
    """Whether the protocol's text is all that a reply is."""
    return protocol in PROTOCOLS and protocol != "native"


def _spread(found: list[NextTurn], most: int) -> list[NextTurn]:
    """At most so many, at even distances, so that every task and every place in a rollout has its share."""
    if len(found) <= most:
        return found
    return [found[len(found) * place // most] for place in range(most)]


def _is_valid(renderer: Renderer, turn: NextTurn, row: Row) -> bool:
    registry = Registry.from_openai(turn.contract.tools, "replay")
    text = renderer.tokenizer.decode(row.reply, clean_up_tokenization_spaces=False)
    parsed = PROTOCOLS[turn.contract.protocol].parse(text, registry.specs)
    later = any(message.role == "assistant" for message in turn.messages)
    return judge(parsed, registry, truncated=row.finish == "length", any_call=later).turn_class is None
