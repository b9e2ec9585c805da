"""Frozen records that every room shares, their wire form, and the canonical JSON behind every hash."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool: a name and its arguments as a dict (never a JSON string)."""

    name: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `tool_calls` is filled only by protocols that carry calls beside the text."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The message as a chat template takes it: arguments stay dicts."""
        record: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            record["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.args}}
                for call in self.tool_calls
            ]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Message:
        """Read a chat message; OpenAI's JSON-string arguments become dicts, `None` content becomes ""."""
        calls = []
        for entry in record.get("tool_calls") or []:
            arguments = entry["function"]["arguments"]
            parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
            calls.append(ToolCall(entry["function"]["name"], parsed))
        return cls(record["role"], record.get("content") or "", tuple(calls))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion; `None` where the server did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def tilde(text: str) -> str:
    """`text` with the user's home folder written as ~, for records that others will read."""
    home = os.path.expanduser("~").rstrip("/")
    if not home:
        return text
    return re.sub(r"(?<![\w./~-])" + re.escape(home) + r"(?![\w.-])", "~", text)
