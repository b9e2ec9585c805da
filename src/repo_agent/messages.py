"""Frozen records that every package shares, their wire form, and the canonical JSON behind every hash."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_DEPTH = 50
"""Levels of nesting in a reply; more than any tool's schema has, and safe for every reader of the trace."""
THOUGHTS = frozenset({"thinking", "reasoning", "redacted_thinking"})
"""Types of a content's parts that hold reasoning."""


class ToolCall(msgspec.Struct, frozen=True, eq=False, repr_omit_defaults=True):
    """One call of a tool: a name and its arguments as a dict (never a JSON string)."""

    name: str
    args: dict[str, Any]
    wire: str = ""
    """The arguments as a server sent them, to go back to it unchanged; "" where they never were text."""
    id: str = ""
    """By which its result names it, where that is recorded. Calls that differ in `wire` and `id` alone are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToolCall) and (self.name, self.args) == (other.name, other.args)

    __hash__ = None  # type: ignore[assignment]


class Message(msgspec.Struct, frozen=True):
    """One chat message. `tool_calls` is filled only by protocols that carry calls beside the text."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Of a result: the id of the call that it answers, where that is recorded."""

    def to_dict(self) -> dict[str, Any]:
        """The message as a chat template takes it: arguments stay dicts."""
        record: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            record["tool_calls"] = [
                ({"id": call.id} if call.id else {})
                | {"type": "function", "function": {"name": call.name, "arguments": call.args}}
                for call in self.tool_calls
            ]
        return record | ({"tool_call_id": self.tool_call_id} if self.tool_call_id else {})

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Message:
        """Read a chat message; OpenAI's JSON-string arguments become dicts, `None` content becomes ""."""
        calls = []
        for entry in record.get("tool_calls") or []:
            arguments = entry["function"]["arguments"]
            parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
            calls.append(ToolCall(entry["function"]["name"], parsed, id=entry.get("id", "")))
        return cls(record["role"], record.get("content") or "", tuple(calls), record.get("tool_call_id", ""))


def call_ids(messages: Iterable[Message]) -> Iterator[tuple[Message, list[str], str]]:
    """Each message with the ids of its calls, made where none are recorded, and the id of the call that it answers: the
    one that it names, else the first that is not answered yet; "" where there is none."""
    waiting: list[str] = []
    for place, message in enumerate(messages):
        own = [call.id or f"call_{place}_{number}" for number, call in enumerate(message.tool_calls)]
        own = own if len(set(own)) == len(own) else [f"call_{place}_{number}" for number in range(len(own))]
        waiting = list(own) if own else waiting
        answered = ""
        if message.role == "tool":
            answered = message.tool_call_id if message.tool_call_id in waiting else next(iter(waiting), "")
            waiting = [one for one in waiting if one != answered]
        yield message, own, answered


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion; `None` where the server did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def total(counts: Iterable[int | None]) -> int | None:
    """The sum of counts; None where one of them is unknown."""
    known = list(counts)
    return None if None in known else sum(filter(None, known))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def strict_json(text: str) -> Any:
    """The value of a JSON text; a duplicated key, NaN and infinities are refused too.

    Raises ValueError or RecursionError.
    """
    return _STRICT.decode(text)


def key_of(value: Any) -> bytes:
    """Bytes that are the same for the same JSON value, to look it up by; quicker than a hash."""
    try:
        return msgspec.json.encode(value, order="deterministic")
    except UnicodeEncodeError:  # a lone surrogate
        return canonical_json(value).encode(errors="surrogatepass")


def said_key(message: Message) -> bytes:
    """Bytes that are the same for messages that say the same, whatever ids their calls have."""
    return key_of([message.role, message.content, [[call.name, call.args] for call in message.tool_calls]])


def quick_json(text: bytes) -> Any:
    """The value of a JSON text as `json.loads` has it, faster. Raises ValueError or RecursionError."""
    try:
        return _QUICK.decode(text)
    except msgspec.DecodeError:  # a lone surrogate or NaN, if it is JSON
        return json.loads(text)


def nesting(value: Any) -> int:
    """Levels of nesting, counted without recursion."""
    depth, level = 0, [value] if value and type(value) in (dict, list) else []
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if inner and type(inner) in (dict, list)
        ]
    return depth


def spoken(content: str, calls: list[dict[str, Any]]) -> str:
    """A reply whose calls stand beside its text, as one text: {"content", "tool_calls": [{"name", "arguments"}]}.

    `arguments` stay as the server sent them, a JSON string by rule.
    """
    return canonical_json({"content": content, "tool_calls": calls})


def read_spoken(text: str) -> tuple[str, list[Any]]:
    """Content and calls of a text that `spoken` wrote; any other text is content alone."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return text, []
    if not isinstance(record, dict) or set(record) != {"content", "tool_calls"}:
        return text, []
    content, calls = record["content"], record["tool_calls"]
    fits = isinstance(content, str) and isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    return (content, calls) if fits else (text, [])


def reply_message(text: str) -> Message:
    """The assistant's message that stands for a `spoken` text in the next request.

    Where a call's arguments are no JSON object no server takes them back: then the calls are kept as text.
    """
    content, calls = read_spoken(text)
    try:
        return Message("assistant", content, tuple(_tool_call(call) for call in calls))
    except (KeyError, TypeError, ValueError, RecursionError):
        return Message("assistant", "\n".join([content, *map(canonical_json, calls)]).strip())


def content_text(content: Any) -> str:
    """The text of a message's content, which may be a list of parts: thoughts are left out, a part that is no text
    leaves a mark such as `[image_url]`."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part if isinstance(part, dict) else {"text": part} for part in content]
    said = [part for part in parts if part.get("type") not in THOUGHTS]
    return "".join(str(part.get("text", f"[{part.get('type', 'part')}]")) for part in said)


def text_hash(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of any text, lone surrogates too."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return text_hash(canonical_json(value))


def seed_of(*parts: Any) -> int:
    """A seed that follows from what it is for, such as a run's seed, a task and a number: the same for every arm."""
    return int(digest(list(parts)), 16) % 2**31


def tilde(text: str) -> str:
    """`text` with the user's home folder written as ~, for records that others will read."""
    home = os.path.expanduser("~").rstrip("/")
    if not home:
        return text
    return re.sub(r"(?<![\w./~-])" + re.escape(home) + r"(?![\w.-])", "~", text)


def _tool_call(call: dict[str, Any]) -> ToolCall:
    name, said = call["name"], call["arguments"]
    args = strict_json(said.strip() or "{}") if isinstance(said, str) else said
    if not name or not isinstance(name, str) or not isinstance(args, dict) or nesting(args) > MAX_DEPTH:
        raise ValueError("no call")
    own = call.get("id")
    return ToolCall(name, args, said if isinstance(said, str) else "", own if isinstance(own, str) else "")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key is duplicated")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_QUICK = msgspec.json.Decoder()
_STRICT = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
