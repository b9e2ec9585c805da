"""Whether a reply is what a prompt asked for, by rules that a program can check; and whether it is whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+\S")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SENTENCE = re.compile(r"[.!?]+[\"'\u201d\u2019)]*(?:\s|$)")
_FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)
_LOOP_WORDS, _LOOP_TIMES, _LONGEST_LOOP = 24, 4, 30


def fits(reply: str, checks: Mapping[str, Any]) -> bool:
    """Whether a reply passes each of a prompt's checks."""
    return all(CHECKS[name](reply, wanted) for name, wanted in checks.items())


def loops(reply: str) -> bool:
    """Whether some stretch of up to 30 words stands there four times or more, one right after another, for 24 words at
    least."""
    words = reply.split()
    for length in range(1, _LONGEST_LOOP + 1):
        same = 0
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            if same + length >= max(_LOOP_WORDS, _LOOP_TIMES * length):
                return True
    return False


def _says(reply: str, options: Sequence[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(option)}(?!\w)", reply, re.IGNORECASE) for option in options)


def _lines(reply: str, wanted: int) -> bool:
    """List entries where there are any, else filled lines."""
    filled = [line for line in reply.splitlines() if line.strip()]
    entries = [line for line in filled if _ITEM.match(line)]
    return len(entries or filled) == wanted


def _number(reply: str, wanted: float) -> bool:
    """The last number of the reply: `7 + 5 = 12` is right too."""
    found = _NUMBER.findall(reply.replace(",", ""))
    return bool(found) and float(found[-1]) == wanted


def _json(reply: str) -> Any:
    fenced = _FENCE.fullmatch(reply)
    try:
        return json.loads(fenced[1] if fenced else reply)
    except (ValueError, RecursionError):
        return None


def _keys(reply: str, wanted: Sequence[str]) -> bool:
    value = _json(reply)
    return isinstance(value, dict) and sorted(value) == sorted(wanted)


def _entries(reply: str, wanted: int) -> bool:
    value = _json(reply)
    return isinstance(value, list) and len(value) == wanted


CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "says": _says,
    "says_all": lambda reply, wanted: all(_says(reply, [one]) for one in wanted),
    "words": lambda reply, wanted: len(_WORD.findall(reply)) == wanted,
    "most_words": lambda reply, wanted: 0 < len(_WORD.findall(reply)) <= wanted,
    "number": _number,
    "lines": _lines,
    "json": _keys,
    "json_list": _entries,
    "begins": lambda reply, wanted: reply.lower().lstrip(" \n\"'*").startswith(wanted),
    "exactly": lambda reply, wanted: reply.strip(" \n\"'.*") == wanted.strip("."),
    "sentences": lambda reply, wanted: len(_SENTENCE.findall(reply.strip())) == wanted,
}
"""Name of a check in prompts.toml → the check, of a reply and what the prompt says there."""
