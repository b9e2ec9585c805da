"""How rows of one pass are kept apart: each attends to itself alone, and positions start at 0 in each.

varlen     torch's own variable-length flash attention, on a GPU
segments   one causal attention a row, on any device: no mask, and the upper triangle is skipped
alone      one row a pass, with the model's own attention

`auto` takes the first that gives the rows the loss that they have alone. Models with a sliding window, or attention
that is not softmax, come out at `alone`.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

NAME = "repo_agent_packed"
Kind = Literal["varlen", "segments", "alone"]


def use(model: Any, kind: Kind) -> None:
    """Let a transformers model attend in this way."""
    from transformers import AttentionInterface

    if kind == "alone":
        model.set_attn_implementation("sdpa")
        return
    AttentionInterface.register(NAME, _FUNCTIONS[kind])
    model.set_attn_implementation("sdpa")  # a name that is set already is not looked up again
    model.set_attn_implementation(NAME)


def kinds(wanted: str, device: str) -> list[Kind]:
    """What to try, in order; `alone` always holds."""
    if wanted == "auto":
        return ["varlen", "segments", "alone"] if device == "cuda" else ["segments", "alone"]
    return [wanted, "alone"] if wanted != "alone" else ["alone"]  # type: ignore[list-item]


def _segments(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, None]:
    """Query, key and value are (1, heads, tokens, size); returns (1, tokens, heads, size)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend

    lengths = more.get("row_lengths")
    if lengths is None or mask is not None:
        return _own(module, query, key, value, mask, **more)
    scale, grouped = more.get("scaling"), query.shape[1] != key.shape[1]
    parts = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    found = [
        attend(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped, dropout_p=more.get("dropout", 0.0))
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _varlen(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, None]:
    import torch
    from torch.nn.attention.varlen import varlen_attn

    lengths = more.get("row_lengths")
    if lengths is None or mask is not None:
        return _own(module, query, key, value, mask, **more)
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        causal["enable_gqa"] = query.shape[1] != key.shape[1]
    ends = torch.tensor([0, *lengths], device=query.device).cumsum(0).int()
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    longest = max(lengths)
    found = varlen_attn(q, k, v, ends, ends, longest, longest, scale=more.get("scaling"), **causal)
    return found[None], None


def _own(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, None]:
    """What transformers does: a cache, a mask, or a batch of rows that nobody packed."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    more.pop("row_lengths", None)
    found: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, mask, **more)
    return found


_FUNCTIONS = {"varlen": _varlen, "segments": _segments}
