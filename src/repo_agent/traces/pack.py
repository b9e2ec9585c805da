"""Keeps a trace near the size of its text: what an earlier event, or the reply itself, holds is named, not repeated."""

from __future__ import annotations

from typing import Any

from repo_agent.messages import read_spoken, strict_json
from repo_agent.traces import events

_WORTH = 32
"""Shorter outputs are repeated: naming one costs as much."""


class Packer:
    """Packs the events of one rollout in their order."""

    def __init__(self) -> None:
        self._outputs: dict[str, str] = {}

    def pack(self, event: events.Event) -> events.Event:
        """The event to write: observations quote the results that they show, a call quotes its reply."""
        if isinstance(event, events.ToolResultEvent | events.Tests):
            self._outputs[event.kind] = event.output
        elif isinstance(event, events.LlmRequest):
            messages = [self._quoting(message) for message in event.messages]
            self._outputs.clear()
            return event.model_copy(update={"messages": messages})
        elif isinstance(event, events.LlmAction) and isinstance(event.call, dict) and said(event) == event.call:
            return event.model_copy(update={"call": "said"})
        return event

    def _quoting(self, message: events.WireMessage) -> events.WireMessage:
        if not isinstance(message.content, str):
            return message
        pieces: list[str | events.Quote] = []
        rest = message.content
        for kind in ("tool_result", "tests"):
            output = self._outputs.get(kind, "")
            before, found, after = rest.partition(output) if len(output) >= _WORTH else (rest, "", "")
            if found:
                pieces += [before, events.Quote(quote=kind)]
                rest = after
        if not pieces:
            return message
        return message.model_copy(update={"content": [piece for piece in (*pieces, rest) if piece]})


def unquoted(content: str | list[str | events.Quote], outputs: dict[str, str]) -> str:
    """The text of a message again. Raises KeyError for a quote of what was not there."""
    if isinstance(content, str):
        return content
    return "".join(piece if isinstance(piece, str) else outputs[piece.quote] for piece in content)


def said(action: events.LlmAction) -> dict[str, Any] | None:
    """The call that a reply itself is: the JSON object of its text, or the one call beside it; else None."""
    _, calls = read_spoken(action.text)
    value = calls[0] if len(calls) == 1 else _object(action.text)
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
