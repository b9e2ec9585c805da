"""Log-probabilities of replies to one prompt, the prompt read once: a group of replies costs one prompt and the
replies, where TRL reads the prompt anew for each.

The keys and values of the prompt are handed to all replies, and their gradients come back as a sum: values and
gradients are those of whole rows, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def log_probabilities(model: Any, ids: Any, mask: Any, replies: int) -> tuple[Any, Any]:
    """Of the last `replies` columns of padded rows (prompts to the left, replies to the right): log-probability and
    entropy of each token. `model`: a PEFT model with TRL's fused head."""
    import torch

    found = [_of_group(model, ids[rows], mask[rows], replies) for rows in _groups(ids, mask, replies)]
    logs, entropies = zip(*found, strict=True)
    return torch.cat(logs), torch.cat(entropies)


def _groups(ids: Any, mask: Any, replies: int) -> Iterator[slice]:
    """Rows beside each other that have the same prompt."""
    prompts = ids[:, :-replies].masked_fill(mask[:, :-replies] == 0, -1)
    begin = 0
    for row in range(1, len(prompts) + 1):
        if row == len(prompts) or not bool((prompts[row] == prompts[begin]).all()):
            yield slice(begin, row)
            begin = row


def _of_group(model: Any, ids: Any, mask: Any, replies: int) -> tuple[Any, Any]:
    import torch
    from transformers import DynamicCache

    begin, last = int((mask[0, :-replies] == 0).sum()), ids.shape[1] - replies - 1
    base, cache = model.get_base_model(), None
    if last > begin:
        cache = DynamicCache()
        base.base_model(input_ids=ids[:1, begin:last], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(ids))
    width = int(mask[:, -replies:].sum(1).max()) + 1  # what is padded in all rows is left out
    tail = ids[:, last : last + width]
    labels = tail.masked_fill(mask[:, last : last + width] == 0, -100)
    labels[:, 0] = -100
    places = torch.arange(last - begin, last - begin + width, device=ids.device)[None].expand(len(ids), -1)
    made = base(input_ids=tail, past_key_values=cache, position_ids=places, labels=labels, fused_lm_head=True)
    room = (0, replies - (width - 1))
    return tuple(torch.nn.functional.pad(one, room) for one in (made.log_probs, made.entropy))
