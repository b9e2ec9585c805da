"""A reply that holds no legal call in its protocol's place: which objects and markers in it count as calls, and the
class that they give it. What all protocols share.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from repo_agent.messages import ToolCall, read_spoken, strict_json
from repo_agent.protocols.leaks import MARKERS, leaks, without_thinking
from repo_agent.protocols.lenient import any_object, called
from repo_agent.protocols.spans import Span, scan
from repo_agent.tools.verdict import Parsed

TAG, END_TAG = "<tool_call>", "</tool_call>"
_ASK = "make one tool call, or finish with a plain text"
_EMPTY = re.compile(r"\{\s*+\}")
_TORN = re.compile(r"""["'](?:args|arguments)["']\s*+:\s*+\{|["']type["']\s*+:\s*+["']tool_call["']""")
"""A piece of a call that no prose has, where the brace before it is missing or the reply was cut off."""
_NEAR = 200
"""Characters between the two, white space and the marker."""


@dataclass(frozen=True, slots=True)
class Stray:
    """The calls of a reply: objects, the number of others, and whether one was opened that never closes."""

    text: str
    objects: tuple[Span, ...]
    others: int
    opened: bool

    def fault(self, ask: str, tags: tuple[str, str] = ("", ""), where: str = "") -> Parsed | None:
        """The class of a reply that is not legal; None where it holds no call at all.

        `tags` may stand around a lone call, which is then only in the wrong envelope; `where` says what is wrong there.
        """
        if self.opened:
            return Parsed(fault="no_call", error=ask)
        count = len(self.objects) + self.others
        if count != 1:
            return Parsed(fault="multiple_calls", error="one call a turn, please") if count else None
        if not self.objects:
            return Parsed(fault="wrapped", error="a call in another syntax than this agent's")
        span, lenient = self.objects[0], self.lenient
        body = self.text[span.start : span.end]
        before = self.text[: span.start].strip().removesuffix(tags[0]).strip()
        after = self.text[span.end :].strip().removeprefix(tags[1]).strip()
        if before or after:
            return Parsed(fault="wrapped", error="no text, fence or tag around the call", lenient=lenient)
        try:
            strict_json(body)
        except (ValueError, RecursionError) as error:
            return Parsed(fault="json_invalid", error=f"not valid JSON: {error}", lenient=lenient)
        return Parsed(fault="envelope_invalid", error=where, lenient=lenient)

    @property
    def lenient(self) -> ToolCall | None:
        """What the forgiving parse of the one call gives; None where there is not one."""
        if self.opened or self.others or len(self.objects) != 1:
            return None
        return called(any_object(self.text[self.objects[0].start : self.objects[0].end]))


def stray(text: str, tools: Container[str] | None, own: Callable[[Span], bool]) -> Stray:
    """Look through a reply. An object counts where it is in the protocol's `own` place, or has a call's keys and the
    name of a declared tool; `tools` None: of any."""
    found = scan(text)

    def counts(span: Span) -> bool:
        return own(span) or (_holds_call(text, span) and (tools is None or span.name in tools))

    objects = [one for span in found.spans for one in ([span] if counts(span) else filter(counts, span.inside))]
    closed = frozenset(span.start for span in found.spans)
    others = [leak for leak in leaks(text, tools) if not _is_inside(leak.start, found.spans)]
    places = [tag.end() for tag in re.finditer(TAG, text) if not _is_inside(tag.start(), found.spans)]
    opened = any(_opens(text, place, closed) for place in [*places, *(leak.end for leak in others)])
    return Stray(text, tuple(objects), len(others), opened or found.opened_call)


def without_call(
    text: str, tools: Container[str] | None, own: Callable[[Span], bool], tags: tuple[str, str], where: str
) -> Parsed:
    """Class a reply without a legal call in a protocol with plain finals: a call gone astray, a final, or nothing."""
    fault = stray(text, tools, own).fault(_ASK, tags, where)
    if fault:
        return fault
    final = _final(text.strip())
    return Parsed(final=final) if final else Parsed(fault="no_call", error=_ASK)


def attempts_call(reply: str, tools: Container[str] | None) -> bool:
    """Whether a reply holds a call, good or broken, in any protocol's place and in any syntax; a final is none.

    `tools` as in `stray`: an object with a call's keys is one also as the whole reply, whatever it names.
    """
    content, calls = read_spoken(reply)
    text = without_thinking(content)
    whole = len(text) - len(text.lstrip()), len(text.rstrip())

    def meant(span: Span) -> bool:
        return span.type == "tool_call" or marked(text, span) or (span.is_call and (span.start, span.end) == whole)

    found = stray(text, tools, meant)
    objects = [span for span in found.objects if not span.is_final]
    pieces = _TORN.search(text) or any(marker in text for marker in MARKERS)
    return bool(calls or found.opened or found.others or objects or pieces)


def holds_final(reply: str) -> bool:
    """Whether a reply holds the object that ends a task in our own protocol."""
    return any(span.is_final for span in scan(without_thinking(reply)).spans)


def marked(text: str, span: Span, markers: tuple[str, ...] = MARKERS) -> bool:
    """Whether a call's marker stands right before an object, or before the list that it begins."""
    before = text[max(0, span.start - _NEAR) : span.start].rstrip()
    return before.endswith(markers) or before.removesuffix("[").rstrip().endswith(markers)


def _holds_call(text: str, span: Span) -> bool:
    return span.is_call or ({"name", "parameters"} <= span.keys and marked(text, span))


def _is_inside(place: int, spans: Sequence[Span]) -> bool:
    """Whether a place is in one of the objects, which are in order."""
    before = bisect(spans, place, key=lambda span: span.start)
    return before > 0 and place < spans[before - 1].end


def _opens(text: str, place: int, closed: Container[int]) -> bool:
    """Whether a marker that ends at a place is followed by an object that does not close, or by nothing."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place == len(text) or (text[place] == "{" and place not in closed and not _EMPTY.match(text, place))


def _final(text: str) -> dict[str, Any] | None:
    """The final that a text is: its own object where it is one, else the text as the summary; None for no text."""
    if text.startswith("{"):
        try:
            value = strict_json(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and value.get("type") == "final" and isinstance(value.get("summary"), str):
            return value
    return {"type": "final", "summary": text} if text else None
