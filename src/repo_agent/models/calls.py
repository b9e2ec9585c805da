"""Calls that a model wrote in Hermes tags, taken out of its text as a server's parser does: what comes back is one text
all the same, `messages.spoken`. Where one of them is no JSON object with a name, the text stays as it is."""

from __future__ import annotations

import json
import re
from typing import Any

from repo_agent.messages import spoken

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def taken_apart(text: str) -> str | None:
    """The text with its calls beside it; None where it holds none."""
    calls = [_read(found) for found in _CALL.findall(text)]
    if not calls or None in calls:
        return None
    content = text[: text.index("<tool_call>")]
    return spoken(content.strip(), [call for call in calls if call])


def _read(text: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)} if isinstance(name, str) else None
