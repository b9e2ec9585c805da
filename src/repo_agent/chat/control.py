"""Special tokens: those that the template prints, apart from those that a message spells.

A spelling in a message is replaced by a random word that no message can guess before the template prints, and put back
before the stretch of text that it belongs to is tokenised, as text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from repo_agent.messages import Message, ToolCall

_BATCH_CHARS = 2**16
_IDS_ALONE = {"return_attention_mask": False, "return_token_type_ids": False}


class Piece(NamedTuple):
    """A special token of the template, or a stretch of text between two of them, and where it begins."""

    begin: int
    text: str
    special: bool


class ControlTokens:
    """The special tokens (`special=True`) of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = {token.content: (number, token) for number, token in added.items() if token.special}
        names = sorted(self._special, key=len, reverse=True)
        self._names, self._found = names, re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._begin = _common_beginning(names)
        self._word = f"w{secrets.token_hex(12)}n"
        self._hidden = re.compile(rf"{self._word}(\d+)e")

    @property
    def eos(self) -> str:
        """The text of the token that ends a turn."""
        return str(self._tokenizer.eos_token)

    def spelt(self, text: str) -> list[str]:
        """The special tokens that a text spells, in order."""
        return self._found.findall(text) if self._names and self._begin in text else []

    def hide(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with every spelling replaced by its random word."""
        return [self._without(message) for message in messages]

    def hide_value(self, value: Any) -> Any:
        """The same for texts, lists and dicts."""
        if isinstance(value, str):
            return self._found.sub(self._word_for, value) if self.spelt(value) else value
        if isinstance(value, dict):
            return {self.hide_value(key): self.hide_value(entry) for key, entry in value.items()}
        return [self.hide_value(entry) for entry in value] if isinstance(value, list) else value

    def shown(self, text: str) -> str:
        """A printed text with the spellings put back."""
        return self._hidden.sub(lambda found: self._names[int(found[1])], text) if self._word in text else text

    def ids(self, text: str) -> list[int]:
        """The token ids of a printed text."""
        if self._word not in text:
            return list(self._tokenizer(text, add_special_tokens=False, **_IDS_ALONE)["input_ids"])
        pieces = self.pieces(text)
        encode = self.encoder(piece.text for piece in pieces)
        return [token for piece in pieces for token in encode(piece.text)]

    def pieces(self, text: str) -> list[Piece]:
        """A printed text, cut before and after each special token; empty stretches are left out.

        White space that a token takes in (`lstrip`, `rstrip`) belongs to it.
        """
        found, place = [], 0
        for match in self._found.finditer(text):
            token = self._special[match[0]][1]
            begin, end = match.span()
            if token.lstrip:
                begin = place + len(text[place:begin].rstrip())
            if token.rstrip:
                end += len(text[end:]) - len(text[end:].lstrip())
            found += [Piece(place, text[place:begin], False)] if begin > place else []
            found.append(Piece(begin, text[begin:end], True))
            place = end
        return [*found, *([Piece(place, text[place:], False)] if place < len(text) else [])]

    def encoder(self, texts: Iterable[str]) -> Callable[[str], list[int]]:
        """What gives the ids of each of these texts, the special tokens of the template and stretches between them."""
        unique = list(dict.fromkeys(texts))
        known = {text: [self._special[text.strip()][0]] for text in unique if text.strip() in self._special}
        plain = [text for text in unique if text not in known]
        for batch in _batches(plain):
            said = [self.shown(text) for text in batch]
            made = self._tokenizer(said, add_special_tokens=False, split_special_tokens=True, **_IDS_ALONE)
            known |= dict(zip(batch, made["input_ids"], strict=True))
        return known.__getitem__

    def _without(self, message: Message) -> Message:
        hidden = self.hide_value
        if message.tool_calls:
            calls = tuple(
                ToolCall(hidden(call.name), hidden(call.args), id=hidden(call.id)) for call in message.tool_calls
            )
            message = replace(message, tool_calls=calls)
        if message.tool_call_id:
            message = replace(message, tool_call_id=hidden(message.tool_call_id))
        if self.spelt(message.content) or self.spelt(message.role):
            message = replace(message, role=hidden(message.role), content=hidden(message.content))
        return message

    def _word_for(self, found: re.Match[str]) -> str:
        return f"{self._word}{self._names.index(found[0])}e"


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in their order, some at a time: a tokenizer keeps a hundred times the text it works on."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _common_beginning(names: Sequence[str]) -> str:
    first, last = (min(names), max(names)) if names else ("", "")
    return first[: next((at for at, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))]
