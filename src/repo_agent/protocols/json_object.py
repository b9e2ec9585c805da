"""The default protocol: every turn is one JSON object, a tool call or the final.

    {"type":"tool_call","name":…,"args":{…}}        {"type":"final","summary":"…"}

Results come back as user messages that start with `[tool_result] `.
"""

from __future__ import annotations

import json
from collections.abc import Container
from functools import partial
from typing import Any

from msgspec.structs import replace

from repo_agent.messages import MAX_DEPTH, Message, ToolCall, nesting, strict_json
from repo_agent.protocols.briefing import Briefing
from repo_agent.protocols.leaks import without_thinking
from repo_agent.protocols.lenient import called
from repo_agent.protocols.spans import Span
from repo_agent.protocols.stray import stray
from repo_agent.tools.dialect import closed
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import Parsed

_PROMPT = """{intro} Each turn, reply with exactly one JSON object and nothing else.
To call a tool: {{"type":"tool_call","name":NAME,"args":{{...}}}}
When done: {{"type":"final","summary":TEXT}}
{lines}
Tools:
"""


class JsonObject:
    """See the module's text; the interface is `repo_agent.protocols.Protocol`."""

    name = "json"

    def describe(self, registry: Registry, briefing: Briefing | None = None) -> str:
        brief = briefing or Briefing()
        head = _PROMPT.format(intro=brief.intro, lines=brief.lines(registry))
        return head + "\n".join(spec.lines() for spec in registry.specs.values())

    def render_call(self, call: ToolCall) -> str:
        return _dump({"type": "tool_call", "name": call.name, "args": call.args})

    def render_final(self, summary: str) -> str:
        return _dump({"type": "final", "summary": summary})

    def tools(self, registry: Registry) -> list[dict[str, Any]] | None:
        return None

    def reply(self, text: str) -> Message:
        return Message("assistant", text)

    def observe(self, reply: Message, text: str) -> list[Message]:
        return [Message("user", f"[tool_result] {text}")]

    def parse(self, text: str, tools: Container[str] | None = None) -> Parsed:
        text = without_thinking(text)
        try:
            value = strict_json(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            fault = stray(text, tools, partial(_is_own, _whole(text))).fault(_ASK, where=_KEYS)
            return fault or Parsed(fault="no_call", error=_ASK)
        if nesting(value) > MAX_DEPTH:
            return Parsed(fault="json_invalid", error=f"nested deeper than {MAX_DEPTH}")
        parsed = _envelope(value)
        if not parsed.fault or parsed.lenient:
            return parsed
        return replace(parsed, lenient=stray(text, tools, partial(_is_own, _whole(text))).lenient)

    def schema(self, registry: Registry) -> dict[str, Any]:
        def envelope(kind: str, **rest: Any) -> dict[str, Any]:
            properties = {"type": {"const": kind}, **rest}
            return {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }

        calls = [
            envelope("tool_call", name={"const": spec.name}, args=closed(spec.parameters)[0])
            for spec in registry.specs.values()
        ]
        return {"anyOf": [*calls, envelope("final", summary={"type": "string"})]}


_ASK = "reply with one JSON object, a tool_call or a final"
_KEYS = 'the keys are "type", "name" and "args"'


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _dump(value: dict[str, Any]) -> str:
    return _ENCODER.encode(value)


def _whole(text: str) -> tuple[int, int]:
    """Where a reply begins and ends, white space left out."""
    return len(text) - len(text.lstrip()), len(text.rstrip())


def _is_own(whole: tuple[int, int], span: Span) -> bool:
    """Whether an object says of itself that it is a call or a final, or is the whole reply and has a call's keys."""
    said = span.type == "tool_call" or span.is_final
    return said or (span.is_call and (span.start, span.end) == whole)


def _envelope(value: dict[str, Any]) -> Parsed:
    if value.get("type") == "final" and isinstance(value.get("summary"), str):
        return Parsed(final=value)
    call = called(value)
    if call is None or value.get("type") != "tool_call" or set(value) != {"type", "name", "args"}:
        return Parsed(fault="envelope_invalid", error=_KEYS, lenient=call)
    return Parsed(call=call, lenient=call)
