"""Calls that a model wrote in Hermes tags, taken out of its text as a server's parser does: what comes back is one text
all the same, `messages.spoken`. Where one of them is no JSON object with a name, the text stays as it is."""

from __future__ import annotations

import json
from typing import Any

from repo_agent.messages import spoken

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def taken_apart(text: str) -> str | None:
    """The text with its calls beside it; None where it holds none."""
    calls, begin = [], text.find(_OPEN)
    content, place = text[: max(begin, 0)], begin
    while place >= 0:
        end = text.find(_CLOSE, place)
        end = len(text) if end < 0 else end
        calls.append(_read(text[place + len(_OPEN) : end]))
        place = text.find(_OPEN, end)
    return spoken(content.strip(), [call for call in calls if call]) if calls and None not in calls else None


def _read(text: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)} if isinstance(name, str) else None
