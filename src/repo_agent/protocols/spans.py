"""Where objects with braces are in a reply: one pass, aware of strings, linear in its length, never an exception.

Found are the outermost objects that close, whether or not they parse, and whether one that holds a call's keys never
does. What is inside an object with a call's keys belongs to it and is never taken for another call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from repo_agent.messages import MAX_DEPTH

_STRING = r""""[^"\\]*+(?:\\.[^"\\]*+)*+"|'[^'\\]*+(?:\\.[^'\\]*+)*+'"""
_START = re.compile(rf"\{{\s*+(?:{_STRING}|[A-Za-z_]\w*+)\s*+:", re.DOTALL)
"""A brace in prose is not followed by a key."""
_TOKEN = re.compile(
    r"""(?P<bare>[A-Za-z_]\w*+) | (?P<mark>[{}\[\]:,]) | \s++ | (?P<other>\\. | [^\s\\{}\[\]:,"'A-Za-z_]++ | .)""",
    re.DOTALL | re.VERBOSE,
)
_QUOTED = {
    '"': re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL),
    "'": re.compile(r"'[^'\\]*+(?:\\.[^'\\]*+)*+'", re.DOTALL),
}
_NAMES, _ARGUMENTS = frozenset({"type", "name"}), frozenset({"args", "arguments"})
_KEYS = _NAMES | _ARGUMENTS | {"summary", "parameters"}
_LEVELS = MAX_DEPTH + 10
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Span:
    """One object that closes: where it is, which of the keys that matter it has, and two of their values."""

    start: int
    end: int
    keys: frozenset[str]
    name: str | None
    """As it is written."""
    type: str | None
    inside: tuple[Span, ...] = ()
    """The outermost calls and finals in it, where it is none."""

    @property
    def is_call(self) -> bool:
        """Whether it has a call's keys: what to call, and with what."""
        return bool(self.keys & _NAMES and self.keys & _ARGUMENTS)

    @property
    def is_final(self) -> bool:
        return self.type == "final" and "summary" in self.keys

    @property
    def may_count(self) -> bool:
        """Whether a protocol may take it for a call or a final."""
        return self.is_call or self.is_final or self.type == "tool_call"


@dataclass(frozen=True, slots=True)
class Scan:
    """What a pass found, in order."""

    spans: tuple[Span, ...]
    opened_call: bool
    """Whether an object with a call's keys never closes."""


class _Open:
    """An object that has not closed yet."""

    __slots__ = ("inside", "key", "keys", "name", "start", "type")

    def __init__(self, start: int) -> None:
        self.start = start
        self.keys: frozenset[str] = _NONE
        self.key = ""  # the last one, or what may be one
        self.name: str | None = None
        self.type: str | None = None
        self.inside: list[Span] | None = None

    @property
    def is_call(self) -> bool:
        return bool(self.keys & _NAMES and self.keys & _ARGUMENTS)

    def closed(self, end: int) -> Span:
        span = Span(self.start, end, self.keys, self.name, self.type)
        if not self.inside or span.may_count:
            return span
        inside: list[Span] = []
        for one in self.inside:
            inside += [one] if one.may_count else one.inside
        return replace(span, inside=tuple(inside)) if inside else span


_DEEP = _Open(-1)
"""Stands for every object below _LEVELS levels: a looping reply opens very many."""


def scan(text: str) -> Scan:
    """Look through a reply once."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._open: list[_Open] = []
        self._lists: list[int] = []
        """How many lists are open in each open object."""
        self._found: list[Span] = []
        self._before = ""
        """The last mark, `word` or `other`; "" after a string."""

    def run(self) -> Scan:
        place = 0
        while place < len(self._text):
            place = self._inside(place) if self._open else self._outside(place)
        spans = list(self._found)
        for span in (span for one in self._open for span in one.inside or ()):
            spans += [span] if _START.match(self._text, span.start) else span.inside
        return Scan(tuple(spans), any(one.is_call for one in self._open))

    def _outside(self, place: int) -> int:
        start = _START.search(self._text, place)
        if start is None:
            return len(self._text)
        self._mark("{", start.start())
        return start.start() + 1

    def _inside(self, place: int) -> int:
        character = self._text[place]
        if character == '"' or (character == "'" and self._is_due()):
            string = _QUOTED[character].match(self._text, place)
            if string:
                self._word(string[0][1:-1])
                self._before = ""
                return string.end()
            # No end: then there is no other quote of that kind, so this happens twice at most.
        token = _TOKEN.match(self._text, place)
        assert token is not None
        if token.lastgroup == "mark":
            self._mark(token[0], place)
        elif token.lastgroup == "bare":
            self._word(token[0])
            self._before = "word"
        elif token.lastgroup:
            self._before = token.lastgroup
        return token.end()

    def _is_due(self) -> bool:
        """Whether a string may begin here: an apostrophe is often no quote."""
        return self._before in ("{", "[", ",", ":")

    def _word(self, text: str) -> None:
        """A string or a bare word: behind a colon a value, else a key if a colon follows."""
        top = self._open[-1]
        if self._lists[-1] or top is _DEEP:
            return
        if self._before != ":":
            top.key = text
        elif top.key == "name" and top.name is None:
            top.name = text
        elif top.key == "type" and top.type is None:
            top.type = text

    def _mark(self, mark: str, place: int) -> None:
        if mark == "{":
            self._open.append(_Open(place) if len(self._open) < _LEVELS else _DEEP)
            self._lists.append(0)
        elif mark == "}":
            self._close(place + 1)
        elif mark == "[":
            self._lists[-1] += 1
        elif mark == "]":
            self._lists[-1] = max(self._lists[-1] - 1, 0)
        elif mark == ":" and not self._lists[-1] and self._open[-1].key in _KEYS and self._before in ("", "word"):
            self._open[-1].keys |= {self._open[-1].key}
        self._before = mark

    def _close(self, end: int) -> None:
        self._lists.pop()
        closed = self._open.pop()
        if closed is _DEEP:
            return
        span = closed.closed(end)
        if not self._open:
            self._found.append(span)
        elif self._open[-1].inside is None:
            self._open[-1].inside = [span]
        else:
            self._open[-1].inside.append(span)
