"""Where a base model lies, and its tokenizer. `tiny` is the model that the package ships, `smollm2` a real one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from repo_agent.chat.smollm2 import smollm2
from repo_agent.errors import UserError

TINY = Path(__file__).parent.parent / "demo" / "tiny"
_REMEDY = "Give `tiny`, `smollm2`, a folder, or a hub name such as Qwen/Qwen2.5-7B-Instruct"


def locate(base: str) -> str:
    """The path or hub name behind a base model's name: `tiny` is shipped, `smollm2` is converted once, a folder is
    itself.

    Raises UserError for something that looks like a path and is not there.
    """
    if base == "tiny":
        return str(TINY)
    if base == "smollm2":
        return str(smollm2())
    looks_like_path = base.startswith((".", "/", "~")) or base.count("/") > 1
    folder = Path(base).expanduser()
    if folder.is_dir():
        return str(folder)
    if looks_like_path or "/" not in base:
        raise UserError("no model there", base, _REMEDY)
    return base


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base model. Raises UserError where there is none, or it has no chat template."""
    from transformers import AutoTokenizer

    where = locate(base)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load its tokenizer ({str(error).splitlines()[0]})",
            base,
            "Is the name right, and the hub in reach?",
        ) from error
    if not tokenizer.chat_template:
        raise UserError("its tokenizer has no chat template", base, "Use an instruction-tuned model")
    return tokenizer
