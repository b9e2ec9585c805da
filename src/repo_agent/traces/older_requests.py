"""The requests of an older trace: each repeats all that was sent before, so of each only what is new is parsed."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from repo_agent.errors import UserError
from repo_agent.messages import Message, quick_json
from repo_agent.traces.trace import REMEDY

CONVERT = "Remove the file, or convert it"
_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_MESSAGES = re.compile(rb'"messages":\s*\[')
"""How a request's list of messages begins; inside a JSON text the quotes are escaped."""
_HEAD_BYTES = 4_096
"""Where a list of messages begins later, its request is read as a whole: slower, no different."""
_DECODER, _QUICK = json.JSONDecoder(), msgspec.json.Decoder()


@dataclass
class Conversation:
    """The messages of requests that continue each other."""

    messages: list[Message] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    """Places of messages with a call whose arguments are not an object."""


@dataclass(frozen=True)
class Request:
    """One request: the first `length` messages of its conversation."""

    conversation: Conversation
    length: int

    def shown(self, place: int) -> Message | None:
        """The message at a place, where this request holds one."""
        return self.conversation.messages[place] if place < self.length else None


class Requests:
    """Reads requests, each as what it adds to the one before."""

    def __init__(self) -> None:
        self.last: Request | None = None
        self.native = False
        self._seen = b""
        """The last request's messages, as they stood between the brackets."""
        self._rest = b""
        """What stood behind them, their closing bracket too."""
        self._fresh: list[Any] | None = None
        self._continues = False

    def envelope(self, line: bytes, where: str) -> dict[str, Any]:
        """A line's object; of a request's messages only those that are new, which `add` takes."""
        self._fresh = None
        try:
            begun = _MESSAGES.search(line, 0, _HEAD_BYTES)
            is_request = begun is not None and b'"llm_request"' in line[: begun.start()]
            record = self._request(line, begun.end()) if begun and is_request else quick_json(line)
        except (ValueError, RecursionError) as error:
            raise UserError("not a JSON object", where, REMEDY) from error
        if not isinstance(record, dict):
            raise UserError("not a JSON object", where, REMEDY)
        return record

    def _request(self, line: bytes, start: int) -> Any:
        """`start` is where the messages begin, after the bracket."""
        shared = len(self._seen) if self._seen and line.startswith(self._seen, start) else 0
        self._continues = bool(shared)
        new = b"[" + (line[start + shared :].lstrip(b", ") if shared else line[start:])
        self._fresh, rest = _list(new, self._rest)
        self._seen, self._rest = line[start : len(line) - len(rest)].rstrip(), rest
        return quick_json(line[:start] + rest)

    def add(self, payload: dict[str, Any], where: str) -> None:
        """Take a request's messages. Raises UserError for one without, or with one that cannot be read."""
        continues = self._continues and self._fresh is not None
        self._seen = b"" if self._fresh is None else self._seen
        fresh = self._fresh if self._fresh is not None else typed_field(payload, "messages", list, where)
        before = self.last if continues else None
        if not fresh and not (before and before.length):
            raise UserError("a request without messages", where, REMEDY)
        read = [_message(record, where) for record in fresh or []]
        self.native = self.native or any(record.get("tool_calls") for record in fresh or [])
        conversation = before.conversation if before else self._same(read)
        place = before.length if before else 0
        for message, broken in read[len(conversation.messages) - place :]:
            conversation.broken |= {len(conversation.messages)} if broken else set()
            conversation.messages.append(message)
        self.last = Request(conversation, place + len(read))

    def _same(self, read: list[tuple[Message, bool]]) -> Conversation:
        """The last conversation where these messages continue it in another spelling, else a new one."""
        if self.last and self.last.length == len(self.last.conversation.messages):
            known = self.last.conversation.messages
            if [message for message, _ in read[: len(known)]] == known:
                return self.last.conversation
        return Conversation()


def _list(text: bytes, likely: bytes) -> tuple[Any, bytes]:
    """The list that a text begins with, and what is left from its closing bracket on, which is likely as given."""
    if likely and text.endswith(likely):
        with suppress(msgspec.DecodeError):
            return _QUICK.decode(text[: len(text) - len(likely) + 1]), likely
    decoded = text.decode()
    found, end = _DECODER.raw_decode(decoded)
    return found, decoded[end - 1 :].encode()


def typed_field(record: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """The value of a key, or None where it is missing or null. Raises UserError for one of another type."""
    value = record.get(key)
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{key!r} is not {_TYPES[kind]}", where, CONVERT)
    return value


def _message(record: Any, where: str) -> tuple[Message, bool]:
    """A message, and whether one of its calls has arguments that are not a JSON object, so that it became text."""
    try:
        role, content = record.get("role"), record.get("content")
        if isinstance(role, str) and isinstance(content, str) and not record.get("tool_calls"):
            return Message(role, content), False
        record = {**record, "content": _content(content)}
        functions = [entry["function"] for entry in record.get("tool_calls") or []]
        said = [(function["name"], function["arguments"]) for function in functions]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"a message that cannot be read ({error})", where, CONVERT) from error
    if not all(isinstance(name, str) for name in (role, *(name for name, _ in said))):
        raise UserError("a message without a role, or a call without a name", where, CONVERT)
    if all(arguments_of(arguments) is not None for _, arguments in said):
        return Message.from_dict(record), False
    texts = [arguments if isinstance(arguments, str) else json.dumps(arguments) for _, arguments in said]
    return Message(record["role"], "\n".join(text for text in (record["content"], *texts) if text)), True


def _content(content: Any) -> str:
    """The text of a message: a string, null, or OpenAI's list of parts. Raises TypeError for parts other than text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part["text"], str) for part in content):
        raise TypeError("its content is no text")
    return "".join(part["text"] for part in content)


def arguments_of(value: Any) -> dict[str, Any] | None:
    """A native call's arguments, as an object or as its JSON text; None for anything else."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
