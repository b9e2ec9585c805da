"""An adapter merged into its base, for servers that take no adapter.

The sum is made in float32 and cast once: made in bfloat16 it would lose small updates. Casting still rounds, so the
largest difference of a log-probability is measured between base with adapter and the merged model.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.weights import load_weights, with_adapter
from repo_agent.errors import UserError, boundary
from repo_agent.files import new_directory
from repo_agent.train.canary import Canary, read_canary
from repo_agent.train.record import read_record


def merge(adapter: Path, out: Path, dtype: str = "bfloat16") -> float | None:
    """Write the merged model and its tokenizer into the new directory `out`.

    Returns the largest difference of a log-probability (nats), over the replies of canary.json and the whole
    vocabulary; None without a canary. Raises UserError for an `out` that exists, and no adapter.
    """
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    base, canary = read_record(adapter).base, read_canary(adapter)
    renderer = Renderer(load_tokenizer(base), canary.tools if canary else None)
    with boundary("merge"), new_directory(out) as folder:
        merged = _adapted(base, adapter, "float32").merge_and_unload().to(_dtype(dtype))
        merged.save_pretrained(str(folder))
        renderer.tokenizer.save_pretrained(str(folder))
        if canary is None or not canary.contexts:
            return None
        del merged
        return _largest_difference(
            load_weights(str(folder), dtype=dtype), _adapted(base, adapter, dtype), renderer, canary
        )


def _adapted(base: str, adapter: Path, dtype: str) -> Any:

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return with_adapter(load_weights(base, dtype=dtype), adapter, base).eval()


def _dtype(name: str) -> Any:
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise UserError(f"no precision {name!r}", "--dtype", "Give bfloat16, float16 or float32")
    return found


def _largest_difference(one: Any, other: Any, renderer: Renderer, canary: Canary) -> float:
    """Over the places where the adapter's replies are drawn."""
    import torch

    largest = 0.0
    for context in canary.contexts:
        prompt = renderer.prompt_ids(context.messages)
        reply = renderer.tokenizer.encode(context.tuned, add_special_tokens=False)
        ids = torch.tensor([[*prompt, *reply]], device=one.device)
        with torch.no_grad():
            found = [model(input_ids=ids, logits_to_keep=len(reply) + 1).logits for model in (one, other)]
        first, second = (logits.float().log_softmax(-1) for logits in found)
        largest = max(largest, float((first - second).abs().max()))
    return largest
