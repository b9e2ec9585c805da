"""The default protocol: every turn is one JSON object, a tool call or the final.

    {"type":"tool_call","name":…,"args":{…}}        {"type":"final","summary":"…"}

Results come back as user messages that start with `[tool_result] `.
"""

from __future__ import annotations

import json
from typing import Any

from repo_agent.messages import MAX_DEPTH, Message, ToolCall, nesting, strict_json
from repo_agent.protocols.lenient import Found, find_objects
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import Parsed

_PROMPT = """You fix code in a repository. Each turn, reply with exactly one JSON object and nothing else.
To call a tool: {"type":"tool_call","name":NAME,"args":{...}}
When done: {"type":"final","summary":TEXT}
Every argument is required. Tests run by themselves after a write.
Tools:
"""


class JsonObject:
    """See the module's text; the interface is `repo_agent.protocols.Protocol`."""

    name = "json"

    def describe(self, registry: Registry) -> str:
        lines = [f"{spec.signature()} - {spec.description}" for spec in registry.specs.values()]
        return _PROMPT + "\n".join(lines)

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

    def parse(self, text: str) -> Parsed:
        found = find_objects(text)
        lenient = _as_call(found[0].value) if len(found) == 1 else None
        try:
            value = strict_json(text)
        except (ValueError, RecursionError) as error:
            return _refused(text, found, lenient, str(error))
        if not isinstance(value, dict):
            return _refused(text, found, lenient, "not an object")
        if nesting(value) > MAX_DEPTH:
            return Parsed(fault="json_invalid", error=f"nested deeper than {MAX_DEPTH}")
        return _envelope(value)

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
            envelope("tool_call", name={"const": spec.name}, args=spec.parameters) for spec in registry.specs.values()
        ]
        return {"anyOf": [*calls, envelope("final", summary={"type": "string"})]}


_ASK = "reply with one JSON object, a tool_call or a final"


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _refused(text: str, found: list[Found], lenient: ToolCall | None, error: str) -> Parsed:
    """Class a reply that is not strict JSON as a whole."""
    if not found:
        return Parsed(fault="no_call", error=_ASK)
    if len(found) > 1:
        return Parsed(fault="multiple_calls", error="one call a turn, please")
    if text[: found[0].start].strip() or text[found[0].end :].strip():
        return Parsed(fault="wrapped", error="no text, fence or tag around the JSON object", lenient=lenient)
    return Parsed(fault="json_invalid", error=f"not valid JSON: {error}", lenient=lenient)


def _envelope(value: dict[str, Any]) -> Parsed:
    if value.get("type") == "final" and isinstance(value.get("summary"), str):
        return Parsed(final=value)
    call = _as_call(value)
    if call is None or value.get("type") != "tool_call" or set(value) != {"type", "name", "args"}:
        return Parsed(fault="envelope_invalid", error='the keys are "type", "name" and "args"', lenient=call)
    return Parsed(call=call, lenient=call)


def _as_call(value: dict[str, Any]) -> ToolCall | None:
    name, args = value.get("name"), value.get("args")
    if isinstance(name, str) and isinstance(args, dict) and all(isinstance(key, str) for key in args):
        return ToolCall(name, args)
    return None
