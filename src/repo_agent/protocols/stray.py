"""A reply in which a protocol with plain finals found no call in its place: a call gone astray, a final, or nothing.

What both such protocols (`hermes`, `native`) share.
"""

from __future__ import annotations

from typing import Any

from repo_agent.messages import ToolCall, strict_json
from repo_agent.protocols.lenient import Found, find_objects
from repo_agent.tools.verdict import Parsed

_ASK = "make one tool call, or finish with a plain text"


def called(value: Any) -> ToolCall | None:
    """The call that an object means, also under the keys of the JSON protocol, or None."""
    if not isinstance(value, dict):
        return None
    name, args = value.get("name"), value.get("arguments", value.get("args"))
    if isinstance(name, str) and isinstance(args, dict) and all(isinstance(key, str) for key in args):
        return ToolCall(name, args)
    return None


def without_call(text: str, tags: tuple[str, str] | None = None) -> Parsed:
    """Class a reply without a legal call. `tags` are those that the protocol itself puts around one."""
    marked = "<tool_call>" in text
    found = [hit for hit in find_objects(text) if marked or called(hit.value)]
    if len(found) > 1:
        return Parsed(fault="multiple_calls", error="one call a turn, please")
    if found:
        return _astray(text, found[0], tags)
    final = None if marked else _final(text.strip())
    return Parsed(final=final) if final else Parsed(fault="no_call", error=_ASK)


def _astray(text: str, hit: Found, tags: tuple[str, str] | None) -> Parsed:
    before, after = text[: hit.start].strip(), text[hit.end :].strip()
    if tags:
        before, after = before.removesuffix(tags[0]), after.removeprefix(tags[1])
    lenient = called(hit.value)
    if before.strip() or after.strip():
        return Parsed(fault="wrapped", error="no text around the call", lenient=lenient)
    try:
        strict_json(text[hit.start : hit.end])
    except (ValueError, RecursionError) as error:
        return Parsed(fault="json_invalid", error=f"not valid JSON: {error}", lenient=lenient)
    where = f"a call stands between {tags[0]} and {tags[1]}" if tags else "a call stands beside the text, not in it"
    return Parsed(fault="envelope_invalid", error=where, lenient=lenient)


def _final(text: str) -> dict[str, Any] | None:
    """The final that a text is: its own object where it is one, else the text as the summary; None for no final."""
    if not text.startswith(("{", "[")):
        return {"type": "final", "summary": text} if text else None
    try:
        value = strict_json(text)
    except (ValueError, RecursionError):
        return None
    told = isinstance(value, dict) and value.get("type") == "final" and isinstance(value.get("summary"), str)
    return value if told else None
