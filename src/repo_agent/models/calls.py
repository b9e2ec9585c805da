"""Calls that a model wrote in Hermes tags, taken out of its text as a server's parser does: what comes back is one text
all the same, `messages.spoken`. Where one of them is no JSON object with a name, all stays content."""

from __future__ import annotations

import json
from typing import Any

from repo_agent.messages import spoken

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def taken_apart(text: str) -> tuple[str, bool]:
    """The text with its calls beside it, and whether it has any."""
    calls, begin = [], text.find(_OPEN)
    content, place = text[: max(begin, 0)], begin
    while place >= 0:
        end = text.find(_CLOSE, place)
        end = len(text) if end < 0 else end
        calls.append(_read(text[place + len(_OPEN) : end]))
        place = text.find(_OPEN, end)
    whole = [call for call in calls if call]
    if not calls or len(whole) < len(calls):
        return spoken(text, []), False
    return spoken(content.strip(), whole), True


def _read(text: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)} if isinstance(name, str) else None
