"""A training row as token ids, with the spans of it that carry loss."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

IGNORE = -100
"""The label of a token without loss."""


class Span(NamedTuple):
    """A trained turn in a row: the message's index, and where its ids begin and end, its end-of-turn token included."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training row: ids, and the spans of them that carry loss, in order."""

    input_ids: list[int]
    spans: tuple[Span, ...]

    @property
    def labels(self) -> list[int]:
        """As long as `input_ids`: the id itself inside a span, IGNORE elsewhere."""
        labels = [IGNORE] * len(self.input_ids)
        for _, start, end in self.spans:
            labels[start:end] = self.input_ids[start:end]
        return labels

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(end - start for _, start, end in self.spans)

    def within(self, length: int) -> Tokens:
        """The row up to the end of the last span that fits into `length` tokens; without spans where none does."""
        kept = tuple(span for span in self.spans if span.end <= length)
        return Tokens(self.input_ids[: kept[-1].end] if kept else [], kept)

    def prompt_hashes(self) -> list[str]:
        """`ids_hash` of what stands before each span."""
        state, done, found = sha256(), 0, []
        for _, start, _ in self.spans:
            state.update(array("I", self.input_ids[done:start]).tobytes())
            done = start
            found.append(state.hexdigest()[:16])
        return found


def ids_hash(ids: Sequence[int]) -> str:
    """16 hex digits of the SHA-256 of token ids, four bytes each, little-endian."""
    return sha256(array("I", ids).tobytes()).hexdigest()[:16]
