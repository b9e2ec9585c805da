"""A model's regular expression, looked at before anything compiles it: by its text alone, in linear time.

Compiling writes the least number of repeats out, so `(?:a{5000}){5000}` takes gigabytes; a pattern that calls itself
takes all memory while it matches. What passes here is compiled in a bounded process (`searchers`), never in ours. This
check gives the same verdict everywhere, also where a recorded call is judged again and nothing may run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARS, MAX_REPEATS, MAX_SIZE = 1_000, 10_000, 100_000
"""Characters of a pattern; the product of nested repeats; its elements, repeats written out (about 260 bytes each)."""
_TOKEN = re.compile(
    r"""(?P<call>\(\?(?:R|[0-9]|[+-][0-9]|&|P>|\(DEFINE\)))
      | (?P<comment>\(\?\#(?:\\.|[^)\\])*\))
      | (?P<open>\([?*]?)
      | (?P<close>\))
      | (?P<set>\[)
      | (?P<repeat>\{[0-9,\s]*\}|[*+?])[?+]?
      | (?P<escape>\\(?:[pPNx]\{[^}]*\}|g<[^>]+>|(?!g<).))
      | (?P<broken>\\)
      | (?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)
_FLAGS = re.compile(r"\(\?[A-Za-z0-9-]*")
_SET_ITEM = re.compile(r"\[:\^?[\w &.=:-]*?:\]|\\.|.", re.DOTALL)
_OPEN = "not a regular expression: a parenthesis, a bracket or an escape is not complete"


@dataclass
class _Group:
    """What an open group holds so far."""

    size: int = 0
    most: int = 1
    """The largest product of nested repeats."""
    last_size: int = 0
    last_repeats: int = 1

    def add(self, size: int, repeats: int = 1) -> None:
        self.size += size
        self.last_size, self.last_repeats = size, repeats
        self.most = max(self.most, repeats)

    def repeat(self, least: int, most: int) -> None:
        """The last element, so many times."""
        self.size += self.last_size * (least - 1)
        self.last_size *= least
        self.last_repeats *= most
        self.most = max(self.most, self.last_repeats)


def pattern_fault(pattern: str) -> str | None:
    """Why a pattern is refused without being compiled, or None: too long, too large, calls itself, or is cut off.

    A pattern that passes may still not compile.
    """
    if len(pattern) > MAX_CHARS:
        return f"a pattern has at most {MAX_CHARS:,} characters"
    flags = "".join(_FLAGS.findall(pattern))
    # With these flags white space or nested sets change what an end is: left to the compiler.
    strict, nested = not ("x" in flags or "V1" in flags), "V1" in flags
    groups, place, whole = [_Group()], 0, True
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        assert token is not None
        kind, begin, place = token.lastgroup, place, token.end()
        if kind == "call":
            return "a pattern may not call itself or one of its groups"
        if kind == "set":
            place = _end_of_set(pattern, place, nested) or len(pattern) + 1
            whole = whole and place <= len(pattern)
            groups[-1].add(place - begin)
        elif kind == "open":
            groups.append(_Group())
        elif kind == "close":
            whole = whole and len(groups) > 1
            inner = groups.pop() if len(groups) > 1 else _Group()
            groups[-1].add(1 + inner.size, inner.most)
        elif kind == "repeat":
            groups[-1].repeat(*_counts(token["repeat"]))
        elif kind != "comment":
            whole = whole and kind != "broken"
            groups[-1].add(1)
        if groups[-1].most > MAX_REPEATS or groups[-1].size > MAX_SIZE:
            return f"the repeats of a pattern come to at most {MAX_REPEATS:,}, its elements to {MAX_SIZE:,}"
    return _OPEN if strict and not (whole and len(groups) == 1) else None


def _counts(repeat: str) -> tuple[int, int]:
    """The numbers of a quantifier, from 1 on; 1 and 1 for `*`, `+`, `?` and what is none."""
    numbers = "".join(repeat.strip("{}").split()).split(",")
    found = [int(number) for number in numbers if number.isdecimal()] if len(numbers) <= 2 else []
    least = found[0] if found and numbers[0] else 1
    return max(1, least), max(1, *found, 1)


def _end_of_set(pattern: str, place: int, nested: bool) -> int | None:
    """Where a set ends whose `[` stands before `place`; None where it does not."""
    depth, first = 1, True
    while place < len(pattern):
        if first and pattern[place] == "^":
            place += 1
        item = _SET_ITEM.match(pattern, place)
        if item is None:
            return None
        text, place = item[0], item.end()
        if text == "]" and not first:
            depth -= 1
            if not depth:
                return place
        depth += nested and text == "["
        first = nested and text == "["
    return None
