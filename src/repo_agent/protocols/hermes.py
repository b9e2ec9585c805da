"""The format that Qwen2.5 and the Hermes models were trained on: one call in tags a turn, in the model's own text.

    <tool_call>
    {"name": …, "arguments": {…}}
    </tool_call>

The tools stand in the system prompt, word for word as Qwen2.5's chat template prints them, and results come back in
`<tool_response>` tags, as that template prints a tool's message. All of it is plain text to us, so a row renders with
any template. A plain text without a call is the final, as these models were trained to end.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container
from typing import Any

from repo_agent.messages import MAX_DEPTH, Message, ToolCall, nesting, strict_json
from repo_agent.protocols.briefing import Briefing
from repo_agent.protocols.leaks import without_thinking
from repo_agent.protocols.lenient import called
from repo_agent.protocols.stray import END_TAG, TAG, marked, without_call
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import Parsed

OPEN, CLOSE = TAG, END_TAG
_PROMPT = """{intro} Each turn, reply with exactly one tool call and nothing else.
When done, reply with a short summary in plain text and no tool call.
{lines}"""
_BEFORE_TOOLS = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_AFTER_TOOLS = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
"""Both from Qwen2.5's tokenizer_config.json (Apache-2.0)."""


class Hermes:
    """See the module's text; the interface is `repo_agent.protocols.Protocol`."""

    name = "hermes"

    def describe(self, registry: Registry, briefing: Briefing | None = None) -> str:
        tools = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in registry.schemas())
        brief = briefing or Briefing()
        head = _PROMPT.format(intro=brief.intro, lines=brief.lines(registry))
        return f"{head}{_BEFORE_TOOLS}{tools}{_AFTER_TOOLS}"

    def render_call(self, call: ToolCall) -> str:
        record = {"name": call.name, "arguments": call.args}
        return f"{OPEN}\n{json.dumps(record, ensure_ascii=False)}\n{CLOSE}"

    def render_final(self, summary: str) -> str:
        return summary

    def tools(self, registry: Registry) -> list[dict[str, Any]] | None:
        return None

    def reply(self, text: str) -> Message:
        return Message("assistant", text)

    def observe(self, reply: Message, text: str) -> list[Message]:
        return [Message("user", f"<tool_response>\n{text}\n</tool_response>")]

    def parse(self, text: str, tools: Container[str] | None = None) -> Parsed:
        text = without_thinking(text)
        body, value = text.strip(), None
        tagged = body.startswith(OPEN) and body.endswith(CLOSE)
        if tagged:
            with contextlib.suppress(ValueError, RecursionError):
                value = strict_json(body[len(OPEN) : -len(CLOSE)])
        if not isinstance(value, dict):
            where = f"a call stands between {OPEN} and {CLOSE}"
            parsed = without_call(text, tools, lambda span: marked(text, span, (OPEN,)), (OPEN, CLOSE), where)
            return Parsed(fault="no_call", error=where) if tagged and parsed.final else parsed
        if nesting(value) > MAX_DEPTH:
            return Parsed(fault="json_invalid", error=f"nested deeper than {MAX_DEPTH}")
        call = called(value)
        if call is None or set(value) != {"name", "arguments"}:
            return Parsed(fault="envelope_invalid", error='the keys are "name" and "arguments"', lenient=call)
        return Parsed(call=call, lenient=call)

    def schema(self, registry: Registry) -> dict[str, Any] | None:
        return None
