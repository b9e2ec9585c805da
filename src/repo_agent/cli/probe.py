"""Replay while a model is trained: its next call, drawn greedily, on recorded contexts of tasks that are held back.

Nothing is run: a call counts as valid when its agent's schemas take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.data.trajectories import Label, Trajectory
from repo_agent.models.batch import Batch, Row
from repo_agent.models.local import ends_of
from repo_agent.protocols import PROTOCOLS
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import judge

MAX_TOKENS = 512
"""Of a reply; a longer one is truncated, and no valid call."""
ROWS = 8
"""Contexts at once."""


def replay(model: Any, renderer: Renderer, trajectories: Sequence[Trajectory], most: int) -> tuple[int, int]:
    """On how many of at most so many contexts the next turn is a valid call, and how many were replayed."""
    import torch

    chosen = _spread(list(_contexts(trajectories)), most)
    if not chosen:
        return 0, 0
    base = model.get_base_model()
    batch = Batch(base, eos=ends_of(base, renderer.tokenizer), known=len(renderer.tokenizer), max_rows=ROWS)
    context = base.config.max_position_embeddings
    waiting, running, valid, replayed = list(chosen), {}, 0, 0
    with torch.no_grad():
        while waiting or batch.running:
            while waiting and not batch.full:
                trajectory, turn = waiting.pop(0)
                prompt = renderer.prompt_ids(trajectory.messages[: turn.at])
                if context - len(prompt) < 1:
                    continue
                row = Row(prompt, min(MAX_TOKENS, context - len(prompt)), 0.0, torch.Generator())
                running[id(row)] = (row, trajectory, turn)
                batch.admit(row)
            for row in batch.leave():
                _, trajectory, turn = running.pop(id(row))
                valid += _is_valid(renderer, trajectory, turn, row)
                replayed += 1
            batch.step()
    return valid, replayed


def _contexts(trajectories: Sequence[Trajectory]) -> Iterator[tuple[Trajectory, Label]]:
    """Each kept call and its trajectory, where the protocol's text is all that a reply is."""
    for one in trajectories:
        if one.contract.protocol in PROTOCOLS and one.contract.protocol != "native":
            yield from ((one, turn) for turn in one.kept if turn.call)


def _spread(found: list[tuple[Trajectory, Label]], most: int) -> list[tuple[Trajectory, Label]]:
    """At most so many, at even distances, so that every task and every place in a rollout has its share."""
    if len(found) <= most:
        return found
    return [found[len(found) * place // most] for place in range(most)]


def _is_valid(renderer: Renderer, trajectory: Trajectory, turn: Label, row: Row) -> bool:
    contract = trajectory.contract
    registry = Registry.from_openai(contract.tools, trajectory.id)
    text = renderer.tokenizer.decode(row.reply, clean_up_tokenization_spaces=False)
    parsed = PROTOCOLS[contract.protocol].parse(text, registry.specs)
    return judge(parsed, registry, truncated=row.finish == "length", any_call=turn.t > 0).turn_class is None
