"""Traces of format 1, brought to today's shape: in them messages quote the outputs that they show, and calls the reply.

This is their one converter; no other code knows of the format.
"""

from __future__ import annotations

from typing import Any

from repo_agent.messages import read_spoken, strict_json


class Unpacker:
    """Converts the lines of one file in their order."""

    def __init__(self) -> None:
        self._outputs: dict[str, str] = {}
        self._native = False

    def unpack(self, record: dict[str, Any]) -> dict[str, Any]:
        """A line of format 1 as one of format 2. Raises KeyError, TypeError or AttributeError for another shape."""
        kind = record["kind"]
        made = {key: value for key, value in record.items() if key != "v"}
        if record["v"] != 1:
            raise KeyError("v")
        if kind == "run_start":
            self._native = record.get("protocol") == "native"
            return {**made, "v": 2}
        if kind in ("tool_result", "tests"):
            self._outputs[kind] = record["output"]
        if kind == "llm_request":
            return {**made, "messages": [self._unquoted(message) for message in record["messages"]]}
        return self._action(made) if kind == "llm_action" else made

    def _unquoted(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return message
        pieces = (piece if isinstance(piece, str) else self._outputs[piece["quote"]] for piece in content)
        return {**message, "content": "".join(pieces)}

    def _action(self, made: dict[str, Any]) -> dict[str, Any]:
        call = made.pop("call", None)
        if call == "said":
            call = _said(made["text"])
        text, calls = read_spoken(made["text"]) if self._native else (made["text"], [])
        return {**made, "text": text, "tool_calls": calls, "calls": [call] if call else []}


def _said(text: str) -> dict[str, Any] | None:
    """The call that a reply itself is: the JSON object of its text, or the one call beside it; else None."""
    _, calls = read_spoken(text)
    value = calls[0] if len(calls) == 1 else _object(text)
    args = _object(value.get("arguments")) if calls else value.get("args")
    named = isinstance(value.get("name"), str) and isinstance(args, dict) and len(calls) < 2
    return {"name": value["name"], "args": args} if named else None


def _object(value: Any) -> dict[str, Any]:
    """An object, or the object that a strict JSON text holds; empty for anything else."""
    try:
        parsed = strict_json(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
