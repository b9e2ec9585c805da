"""How large a base is, from its config alone: parameters, and the memory that training it takes."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from repo_agent.chat.tokenizer import locate
from repo_agent.errors import UserError

_NAMED = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z0-9])", re.IGNORECASE)


@lru_cache(8)
def config_of(base: str) -> Any:
    """The transformers config of a base; None where it is not on this machine and cannot be had."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(base), trust_remote_code=False)
    except (OSError, ValueError):
        return None


@lru_cache(8)
def parameters_of(base: str) -> int | None:
    """Parameters of a base: from its config, else from its name (`Qwen2.5-7B`), else None.

    Raises UserError for a path where no model is.
    """
    found = shape_of(base)
    if found is not None:
        return found.parameters
    named = _NAMED.search(Path(base).name)
    return int(float(named[1]) * {"b": 1e9, "m": 1e6}[named[2].lower()]) if named else None


class Shape(NamedTuple):
    """What memory and time follow from."""

    parameters: int
    layers: int
    hidden: int
    wide: int
    """Of the feed-forward layers."""
    vocabulary: int
    linear: int
    """Inputs plus outputs of all adapted layers: a LoRA has rank times as many parameters."""


@lru_cache(8)
def shape_of(base: str) -> Shape | None:
    """The shape of a base; no weights are loaded. None where its config cannot be had."""
    import torch

    config = config_of(base)
    if config is None:
        return None
    model = _without_weights(config)
    head = model.get_output_embeddings()
    linear = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one is not head]
    return Shape(
        model.num_parameters(),
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        sum(one.in_features + one.out_features for one in linear),
    )


def check_target(base: str, target: str) -> None:
    """Raise UserError where PEFT finds no layer to adapt; not where the base's config cannot be had."""
    config = None if target == "all-linear" else config_of(base)
    if config is None:
        return
    import peft

    try:
        lora = peft.LoraConfig(target_modules=target, task_type="CAUSAL_LM")
        peft.inject_adapter_in_model(lora, _without_weights(config))
    except (ValueError, re.error) as error:
        what = f"no layer of {base} to adapt by {target!r} ({str(error).splitlines()[0]})"
        remedy = "Give all-linear, or a regular expression for whole names, as '.*[qv]_proj'"
        raise UserError(what, "--target", remedy) from error


def _without_weights(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


class Memory(NamedTuple):
    """Bytes of a training run, estimated."""

    weights: int
    adapter: int
    """Its weights, gradients and the optimizer's two moments, in float32."""
    activations: int
    """Of one forward pass, kept for its backward pass."""

    @property
    def total(self) -> int:
        return sum(self)


def memory(shape: Shape, rank: int, tokens: int, trained: int, *, wide: bool, quantized: bool, again: bool) -> Memory:
    """What a pass of so many tokens takes. `wide`: in float32; `again`: activations are computed again.

    Counts what a decoder layer keeps for its backward pass: about 16 vectors of the hidden size and 6 of the
    feed-forward size a token; of recomputed layers one vector each and the whole of one layer.
    """
    size = 4 if wide else 2
    a_layer = size * (16 * shape.hidden + 6 * shape.wide)
    layers = size * shape.hidden * shape.layers + a_layer if again else a_layer * shape.layers
    logits = min(trained, 1024) * shape.vocabulary * (4 + 4 + size)
    weights = shape.parameters * (0.6 if quantized else size)
    return Memory(int(weights), 16 * rank * shape.linear, tokens * layers + logits)
