"""Calls beside the text, made and read by the server: `tools` in the request, `tool_calls` in the reply.

Inside this package a reply is one text all the same, `messages.spoken`: {"content", "tool_calls"}. What the model wrote
before the server's own parser took it apart cannot be had, so traces mark a reply with calls as `raw_unknown`.

Text beside one call is legal here: the wire has a place for it. A reply without a call is the final, as in any agent
that speaks this protocol; a call that stands in the text, where no server looks for it, is none.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from repo_agent.messages import MAX_DEPTH, Message, ToolCall, nesting, read_spoken, reply_message, spoken, strict_json
from repo_agent.protocols.briefing import Briefing
from repo_agent.protocols.leaks import without_thinking
from repo_agent.protocols.lenient import called, json_object
from repo_agent.protocols.stray import without_call
from repo_agent.tools.registry import Registry, ToolSpec
from repo_agent.tools.verdict import Parsed

_PROMPT = """{intro} Each turn, call exactly one tool.
When done, reply with a short summary in plain text and call no tool.
{lines}"""


class Native:
    """See the module's text; the interface is `repo_agent.protocols.Protocol`."""

    name = "native"

    def describe(self, registry: Registry, briefing: Briefing | None = None) -> str:
        brief = briefing or Briefing()
        return _PROMPT.format(intro=brief.intro, lines=brief.lines(registry))

    def render_call(self, call: ToolCall) -> str:
        return spoken("", [{"name": call.name, "arguments": json.dumps(call.args, ensure_ascii=False)}])

    def render_final(self, summary: str) -> str:
        return spoken(summary, [])

    def tools(self, registry: Registry) -> list[dict[str, Any]] | None:
        return registry.schemas()

    def reply(self, text: str) -> Message:
        return reply_message(text)

    def observe(self, reply: Message, text: str) -> list[Message]:
        """A tool message for each call, since servers want every call answered; a user message where there is none."""
        if not reply.tool_calls:
            return [Message("user", text)]
        return [Message("tool", text)] + [Message("tool", "not run")] * (len(reply.tool_calls) - 1)

    def parse(self, text: str, tools: Container[str] | None = None) -> Parsed:
        content, calls = read_spoken(text)
        if not calls:
            return without_call(without_thinking(content), tools, lambda span: False, ("", ""), _BESIDE)
        each = tuple(_call(call, tools) for call in calls)
        return each[0] if len(each) == 1 else Parsed(fault="multiple_calls", error=_ONE, each=each)

    def schema(self, registry: Registry) -> dict[str, Any] | None:
        return None


_BESIDE = "a call stands beside the text, not in it"
_ONE = "one call a turn, please"


def _call(call: dict[str, Any], tools: Container[str] | None) -> Parsed:
    name, said = call.get("name"), call.get("arguments")
    if isinstance(said, str) and not said.strip() and _takes_none(name, tools):
        said = "{}"
    lenient = _lenient(name, said)
    try:
        args = strict_json(said) if isinstance(said, str) else said
    except (ValueError, RecursionError) as error:
        return Parsed(fault="json_invalid", error=f"the arguments are not valid JSON: {error}", lenient=lenient)
    if nesting(args) > MAX_DEPTH:
        return Parsed(fault="json_invalid", error=f"nested deeper than {MAX_DEPTH}")
    if not name or not isinstance(name, str) or not isinstance(args, dict):
        return Parsed(fault="envelope_invalid", error="a call has a name and an object of arguments")
    return Parsed(call=ToolCall(name, args), lenient=ToolCall(name, args))


def _takes_none(name: Any, tools: Container[str] | None) -> bool:
    """Whether a tool may be called without arguments."""
    spec = tools.get(name) if isinstance(tools, Mapping) and isinstance(name, str) else None
    return isinstance(spec, ToolSpec) and not spec.parameters.get("required")


def _lenient(name: Any, said: Any) -> ToolCall | None:
    args = json_object(said.strip()) if isinstance(said, str) else said
    return called({"name": name, "arguments": args})
