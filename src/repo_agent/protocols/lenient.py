"""The forgiving parser: finds call-like JSON objects anywhere in a reply. It never repairs text.

`raw_decode(strict=False)` from each `{`, then `ast.literal_eval` for Python quotes: exact on fences, tags, prose around
the object and raw newlines in strings.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder(strict=False)
_STARTS = 64
"""How many opening braces of a reply are tried as the start of an object: a looping model writes thousands."""
_LITERAL_ENDS = 8
"""How many closing braces, from the last one back, are tried as the end of a Python literal."""
_LITERAL_CHARS = 20_000
"""Longer replies are not tried as Python literals."""


@dataclass(frozen=True, slots=True)
class Found:
    """One object and where it stood in the text."""

    value: dict[str, Any]
    start: int
    end: int


def find_objects(text: str) -> list[Found]:
    """Every outermost call-like object (a dict with `name` or `type`) of a reply, in order."""
    found, position = [], text.find("{")
    for _ in range(_STARTS):
        if position < 0:
            break
        hit = _decode(text, position)
        if hit and ("name" in hit.value or "type" in hit.value):
            found.append(hit)
        position = text.find("{", hit.end if hit else position + 1)
    return found


def _decode(text: str, start: int) -> Found | None:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return _literal(text, start)
    return Found(value, start, end) if isinstance(value, dict) else None


def _literal(text: str, start: int) -> Found | None:
    if len(text) > _LITERAL_CHARS or not text[start + 1 :].lstrip().startswith("'"):
        return None
    end = len(text)
    for _ in range(_LITERAL_ENDS):
        end = text.rfind("}", start, end)
        if end < 0:
            return None
        try:
            value = ast.literal_eval(text[start : end + 1])
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return Found(value, start, end + 1)
    return None
