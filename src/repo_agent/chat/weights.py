"""A base model's weights, loaded one way for running and for training."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from repo_agent.chat.tokenizer import locate
from repo_agent.errors import UserError

SMALL = 50_000_000
"""Parameters below which one CPU thread beats several: a step is then shorter than their synchronisation."""


def load_weights(base: str, device: str | None = None, dtype: str | None = None, *, quantized: bool = False) -> Any:
    """A causal language model, on cuda where there is one; in the precision of `usual_dtype`.

    `quantized`: 4-bit weights (NF4), which compute in bfloat16. Raises UserError where the base is not there or is no
    such model, or bitsandbytes is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    logging.disable_progress_bar()
    try:
        more = _four_bits(device) if quantized else {"dtype": dtype or usual_dtype(base, device)}
        more |= {"attn_implementation": "sdpa", "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(locate(base), **more)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot load the model ({reason})", base, "Is the name right, and the hub in reach?"
        ) from error
    return model if quantized else model.to(device)


def with_adapter(model: Any, adapter: Path, base: str, *, trainable: bool = False) -> Any:
    """A model with the PEFT adapter of a folder, frozen or to be trained on.

    Raises UserError for one that does not fit, or cannot be read.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            # PEFT asks transformers under a name that transformers has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"does not fit the base {base} ({reason})", str(adapter), "Use the base it was made on"
        ) from error
    except (OSError, SafetensorError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"its weights cannot be read ({reason})", str(adapter), "Copy it anew, or train again"
        ) from error


def usual_dtype(base: str, device: str) -> str:
    """bfloat16 on cuda, and on a CPU that multiplies in it (AMX) for a model that is not small; else float32.

    Raises OSError or ValueError where the base is not there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if device.startswith("cuda"):
        return "bfloat16"
    if not torch.cpu._is_amx_tile_supported():
        return "float32"
    config = AutoConfig.from_pretrained(locate(base), trust_remote_code=False)
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config, trust_remote_code=False).num_parameters()
    return "float32" if parameters < SMALL else "bfloat16"


def free_memory() -> int | None:
    """Bytes that are free on the GPU, else of the machine's memory; None where nothing says."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        words = Path("/proc/meminfo").read_text().split()
        return 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, ValueError):
        return None


def _four_bits(device: str) -> dict[str, Any]:
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("a 4-bit base needs bitsandbytes", "--quantize", "pip install bitsandbytes")
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": four, "dtype": torch.bfloat16, "device_map": {"": device}}
