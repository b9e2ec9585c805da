"""Schema-constrained decoding with llguidance: compact JSON (no whitespace), keys in the schema's order."""

from __future__ import annotations

from typing import Any

from repo_agent.errors import InfraError
from repo_agent.messages import digest


class Grammars:
    """Grammars over one tokenizer, compiled once a schema. `vocabulary` is the width of the model's logits."""

    def __init__(self, tokenizer: Any, vocabulary: int, eos: list[int]) -> None:
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=eos)
        self._compiled: dict[str, Any] = {}

    def matcher(self, schema: dict[str, Any]) -> Any:
        """A fresh matcher at the start of a reply. Raises InfraError for a schema that does not compile.

        Keywords that a grammar cannot express (our formats `relative-path` and `regex`) are left unchecked.
        """
        from llguidance import LLMatcher

        key = digest(schema)
        if key not in self._compiled:
            options = {"whitespace_flexible": False, "lenient": True}
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=options)
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise InfraError("model", f"the reply's schema does not compile: {matcher.get_error()}")
            self._compiled[key] = matcher
        return self._compiled[key].deep_copy()
