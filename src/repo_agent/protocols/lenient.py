"""The forgiving parse of one object, for the column `lenient`. It never repairs text.

`raw_decode(strict=False)`, then, where the object's own keys are in Python quotes, `ast.literal_eval` of what holds
nothing but literals: exact on raw newlines in strings and on Python quotes.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from repo_agent.messages import MAX_DEPTH, ToolCall, nesting

_DECODER = json.JSONDecoder(strict=False)
_LITERAL_CHARS = 20_000
"""Longer objects are not tried as Python literals."""
_LITERAL = re.compile(
    r"""\{\s*+(?='|\})(?:[\s{}\[\],:]|'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"
    |-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?|True\b|False\b|None\b)*+""",
    re.DOTALL | re.VERBOSE,
)


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, raw newlines in strings allowed; None where it is none, or too deep."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and end == len(text) and nesting(value) <= MAX_DEPTH else None


def any_object(text: str) -> dict[str, Any] | None:
    """The same, or the object of a Python literal."""
    value = json_object(text)
    if value is not None or len(text) > _LITERAL_CHARS or not _LITERAL.fullmatch(text):
        return value
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) and nesting(value) <= MAX_DEPTH and _is_json(value) else None


def called(value: Any) -> ToolCall | None:
    """The call that an object means, under the keys of any protocol; None for no call, or one with two sets of
    arguments."""
    if not isinstance(value, dict) or ("args" in value and "arguments" in value):
        return None
    name, args = value.get("name"), value.get("arguments", value.get("args"))
    return ToolCall(name, args) if isinstance(name, str) and isinstance(args, dict) else None


def _is_json(value: Any) -> bool:
    """Whether a Python value is one of JSON: texts as keys, no sets and the like."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, int, float, bool))
