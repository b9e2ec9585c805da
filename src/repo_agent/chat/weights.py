"""A base model's weights, loaded one way for running and for training."""

from __future__ import annotations

from typing import Any

from repo_agent.chat.tokenizer import locate
from repo_agent.errors import UserError

SMALL = 50_000_000
"""Parameters below which one CPU thread beats several: a step is then shorter than their synchronisation."""


def load_weights(base: str, device: str | None = None, dtype: str | None = None) -> Any:
    """A causal language model: on cuda in bfloat16 where there is one, else on the CPU in float32.

    Raises UserError where the base is not there or is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(locate(base), dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot load the model ({reason})", base, "Is the name right?") from error
    return model.to(device)
