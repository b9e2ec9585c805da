"""A model's regular expression, looked at before anything compiles it: by its text alone, in linear time.

Compiling writes the least number of repeats out, so `(?:a{5000}){5000}` takes gigabytes; a pattern that calls itself
takes all memory while it matches. What passes here is compiled in a bounded process (`searchers`), never in ours. This
check gives the same verdict everywhere, also where a recorded call is judged again and nothing may run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
_PLAIN = re.compile(r"[^\\()\[{*+?]*+")
"""A pattern without repeats, groups, sets and escapes."""
_FLAGS = re.compile(r"\(\?[A-Za-z0-9-]*")
_SET_ITEM = re.compile(r"\[:\^?[\w &.=:-]*?:\]|\\.|.", re.DOTALL)
_OPEN = "not a regular expression: a parenthesis, a bracket or an escape is not complete"
_NO_END = 10**18


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
    if _PLAIN.fullmatch(pattern):
        return None
    groups, whole = [_Group()], True
    for kind, text in _tokens(pattern):
        if kind == "call":
            return "a pattern may not call itself or one of its groups"
        if kind == "open":
            groups.append(_Group())
        elif kind == "close":
            whole = whole and len(groups) > 1
            inner = groups.pop() if len(groups) > 1 else _Group()
            groups[-1].add(1 + inner.size, inner.most)
        elif kind == "repeat":
            least, most = _counts(text)
            groups[-1].repeat(max(1, least), max(1, least, most or 0))
        elif kind != "comment":
            whole = whole and kind != "broken"
            groups[-1].add(len(text) if kind == "set" else 1)
        if groups[-1].most > MAX_REPEATS or groups[-1].size > MAX_SIZE:
            return f"the repeats of a pattern come to at most {MAX_REPEATS:,}, its elements to {MAX_SIZE:,}"
    # With these flags white space or nested sets change what an end is: left to the compiler.
    strict = not {"x", "V"} & set("".join(_FLAGS.findall(pattern)))
    return _OPEN if strict and not (whole and len(groups) == 1) else None


@dataclass
class _Ways:
    """In how many ways a group can match. `before` leaves the last element out."""

    ways: int = 1
    choices: int = 1
    """Those of alternatives and `?` alone."""
    spans: int = 0
    """Repeats of no fixed number."""
    base: int = 1
    """To the power of the text's length."""
    branches: int = 1
    before: tuple[int, int, int, int] = (1, 1, 0, 1)
    last: tuple[int, int, int, int] = (1, 1, 0, 1)

    def add(self, ways: int = 1, choices: int = 1, spans: int = 0, base: int = 1) -> None:
        self.before, self.last = (self.ways, self.choices, self.spans, self.base), (ways, choices, spans, base)
        self._put()

    def repeat(self, least: int, most: int | None, length: int) -> None:
        ways, choices, spans, base = self.last
        if least == most:
            self.last = (min(ways**least, _NO_END), min(choices**least, _NO_END), spans * least, base)
        elif (least, most) == (0, 1):
            self.last = (ways * 2, choices * 2, spans, base)
        else:
            many = length + 1 if most is None else min(most - least, length) + 1
            nested = (ways, base) != (1, 1)
            self.last = (2, 1, 1, min(base * choices * 2**spans, _NO_END)) if nested else (many, 1, 1, 1)
        self._put()

    def _put(self) -> None:
        (ways, choices, spans, base), last = self.before, self.last
        self.ways, self.choices = min(ways * last[0], _NO_END), min(choices * last[1], _NO_END)
        self.spans, self.base = spans + last[2], max(base, last[3])


def steps(pattern: str, length: int) -> int:
    """At most how many steps a backtracking search for a pattern takes in a text of that length, by far at times.

    Repeats multiply the ways to match; repeats of repeats or of alternatives raise them to the power of the length.
    """
    groups = [_Ways()]
    for kind, text in _tokens(pattern):
        if kind == "open":
            groups.append(_Ways())
        elif kind == "close" and len(groups) > 1:
            one = groups.pop()
            groups[-1].add(one.ways * one.branches, one.choices * one.branches, one.spans, one.base)
        elif kind == "repeat":
            groups[-1].repeat(*_counts(text), length)
        elif text == "|":
            groups[-1].branches += 1
        elif kind == "escape" and text[1].isdigit():
            groups[-1].add(length + 1, 1, 1)
        elif kind != "comment":
            groups[-1].add()
        if groups[-1].ways >= _NO_END or kind == "call":
            return _NO_END
    one = groups[0]
    fixed = pattern.startswith(("^", "\\A")) and one.branches == 1
    power = 1 if one.base == 1 else _NO_END if length > 60 else one.base**length
    return min(len(pattern) * one.ways * one.branches * power * (1 if fixed else length + 1), _NO_END)


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    """The pieces of a pattern: kind and text. A set is one piece; one without an end is `broken`."""
    nested, place = "V1" in "".join(_FLAGS.findall(pattern)), 0
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        assert token is not None
        kind, end = str(token.lastgroup), token.end()
        if kind == "set":
            found = _end_of_set(pattern, end, nested)
            kind, end = ("set", found) if found else ("broken", len(pattern))
        yield kind, token["repeat"] if kind == "repeat" else pattern[place:end]
        place = end


def _counts(repeat: str) -> tuple[int, int | None]:
    """The least and the most of a quantifier; None for no end. What is none counts as once."""
    if len(repeat) == 1:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[repeat]
    numbers = "".join(repeat[1:-1].split()).split(",")
    if len(numbers) > 2 or numbers == [""]:
        return 1, 1
    found = [int(number) if number else None for number in numbers]
    return found[0] or 0, found[-1]


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
