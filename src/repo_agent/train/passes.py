"""One forward pass over a pack of rows: the summed loss of their trained tokens, the same as of each row alone.

Only positions whose next token carries loss are projected to the vocabulary: in rows of an agent they are a third.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

from repo_agent.chat.tokens import Tokens
from repo_agent.errors import InfraError, boundary
from repo_agent.train import attention

HEAD_TOKENS = 1024
"""Trained tokens that are projected at once; of more, the projection is computed again in the backward pass."""


def pack_tensors(rows: Sequence[Tokens], device: Any) -> dict[str, Any]:
    """What `add_head` takes of some rows as one: ids and positions (1, tokens), where to predict, and what."""
    import torch

    ids: list[int] = []
    positions: list[int] = []
    keep, lengths = [], []
    for row in rows:
        before = len(ids)
        ids += row.input_ids
        positions += range(len(row.input_ids))
        lengths.append(len(row.input_ids))
        keep += [before + place for _, start, end in row.spans for place in range(max(start, 1) - 1, end - 1)]
    made = torch.tensor(ids)
    where = torch.tensor(keep, dtype=torch.long)
    found: dict[str, Any] = {
        "input_ids": made[None],
        "position_ids": torch.tensor(positions)[None],
        "keep": where,
        "targets": made[where + 1],
    }
    moved = {name: tensor.to(device) for name, tensor in found.items()}
    return {**moved, "row_lengths": lengths} if len(rows) > 1 else moved


def add_head(model: Any) -> None:
    """Let a transformers model, called with `keep` and `targets`, return the summed loss of those positions."""
    plain = model.forward

    def forward(self: Any, *args: Any, keep: Any = None, targets: Any = None, **more: Any) -> Any:
        if keep is None:
            return plain(*args, **more)
        hidden = self.base_model(*args, **more, use_cache=False).last_hidden_state[0, keep]
        return _summed_loss(self.get_output_embeddings(), hidden, targets)

    model.forward = types.MethodType(forward, model)


def _summed_loss(head: Any, hidden: Any, targets: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    def part(some: Any, wanted: Any) -> Any:
        logits = head(some)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(exact, wanted, reduction="sum")

    if len(targets) <= HEAD_TOKENS:
        return part(hidden, targets)
    losses = [
        checkpoint(part, some, wanted, use_reentrant=False)
        for some, wanted in zip(hidden.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True)
    ]
    return torch.stack(losses).sum()


def summed_loss(model: Any, rows: Sequence[Tokens]) -> float:
    """The summed loss of some rows in one pass, without gradients."""
    import torch

    with torch.no_grad():
        return float(model(**pack_tensors(rows, model.device)))


def choose_attention(model: Any, rows: Sequence[Tokens], wanted: str) -> tuple[attention.Kind, str]:
    """Set, and return, the first kind of attention that keeps rows apart, with why others did not.

    The proof: a row's loss in a pass with another one is its loss alone, and does not change with the other's tokens.
    """
    attention.use(model, "alone")
    shortest = sorted(rows, key=lambda row: len(row.input_ids))[:2]
    if len(shortest) < 2:
        return "alone", "there is one row"
    first, row = Tokens(shortest[0].input_ids, ()), shortest[1]
    other = Tokens(first.input_ids[::-1], ())
    alone = summed_loss(model, [row])
    tolerance = 2e-2 if str(model.dtype) == "torch.bfloat16" else 1e-4
    why = []
    for kind in attention.kinds(wanted, model.device.type):
        if kind == "alone":
            break
        try:
            with boundary("attention"):
                attention.use(model, kind)
                together, changed = summed_loss(model, [first, row]), summed_loss(model, [other, row])
        except InfraError as error:
            why.append(f"{kind}: {error.cause}")
            continue
        if abs(together - alone) <= tolerance * alone and abs(together - changed) <= 1e-6 * alone:
            return kind, "; ".join(why)
        why.append(f"{kind}: a row has a loss of {alone:.4f} alone, {together:.4f} and {changed:.4f} beside another")
    attention.use(model, "alone")
    return "alone", "; ".join(why)
