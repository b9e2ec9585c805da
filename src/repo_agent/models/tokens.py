"""How many tokens a reply has where its server does not say: by the model's own tokenizer, else by its characters."""

from __future__ import annotations

import math
import threading
from typing import Any, Literal, NamedTuple

from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.errors import UserError

CHARACTERS_A_TOKEN = 4
"""English and code have about this many, so the count errs on the model's side where they have fewer."""


class Counted(NamedTuple):
    """A count, and how it was had."""

    tokens: int
    by: Literal["tokenizer", "characters"]


class TokenCounter:
    """Counts by the tokenizer of `base`, loaded when first needed; by characters where there is none."""

    def __init__(self, base: str | None = None) -> None:
        self.base = base
        """None: counting costs nothing, whatever the length."""
        self._tokenizer: Any = None
        self._loading = threading.Lock()

    def count(self, text: str) -> Counted:
        with self._loading:
            if self.base is not None and self._tokenizer is None:
                self._tokenizer = self._load(self.base)
        if self._tokenizer is None:
            return Counted(math.ceil(len(text) / CHARACTERS_A_TOKEN), "characters")
        return Counted(len(self._tokenizer(text, add_special_tokens=False)["input_ids"]), "tokenizer")

    def _load(self, base: str) -> Any:
        try:
            return load_tokenizer(base)
        except (UserError, ImportError):
            self.base = None
            return None
