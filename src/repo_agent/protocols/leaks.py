"""Calls in the syntax of some vendor's template that a server's own parser left in the text, and inline thinking."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

_NAME = r"(?:functions\.)?([\w-]+(?:\.[\w-]+)*)"
_SEP = r"<\uff5ctool\u2581sep\uff5c>"
SYNTAXES = {
    "Anthropic, MiniMax": rf'<(?:antml:|\uff5cDSML\uff5c)?invoke name="{_NAME}">',
    "DeepSeek": rf"<\uff5ctool\u2581call\u2581begin\uff5c>(?:function{_SEP})?{_NAME}(?:{_SEP})?",
    "Gemma": rf"<start_function_call>\s*call:{_NAME}(?=\{{)",
    "GLM, Hunyuan": rf"<tool_call>\s*{_NAME}\s*(?:(?=<arg_key>|</tool_call>)|```)",
    "Harmony": rf"\bto=functions\.([\w-]+)[^{{]{{0,99}}|<\|channel\|>\w+ to={_NAME}[^{{]{{0,99}}",
    "Kimi": rf"<\|tool_call_begin\|>\s*{_NAME}(?::\d+)?\s*<\|tool_call_argument_begin\|>",
    "Llama": rf"<\|python_tag\|>\s*{_NAME}\.call\(",
    "Mistral": rf"\[TOOL_CALLS\]\s*{_NAME}\s*(?:\[ARGS\])?",
    "Qwen3-Coder, Llama": rf"<function={_NAME}>",
}
"""Vendor → how its calls begin, the tool's name in a group. Calls that are JSON objects with a call's keys need no line
here; `MARKERS` are what such vendors (Hermes, Llama, Granite, InternLM, Mistral, MiniMax) write before them."""
MARKERS = (
    "<tool_call>", "<tool_calls>", "<|python_tag|>", "<|tool_call|>", "<|plugin|>", "[TOOL_CALLS]", "<function_call>",
)  # fmt: skip
_LEAK = re.compile("|".join(SYNTAXES.values()))
_LISTED = re.compile(rf"(?:<\|tool_call_start\|>)?\s*\[\s*{_NAME}\(")
_NEXT = re.compile(rf"\)\s*,\s*{_NAME}\(")
"""In Python's syntax, the reply a list: Llama 4, LFM2."""
_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Leak:
    """One call: the name, and where its marker is."""

    name: str
    start: int
    end: int


def leaks(text: str, tools: Container[str] | None) -> list[Leak]:
    """The calls of declared tools in a vendor's syntax; None: any name will do."""
    found = [Leak(next(filter(None, hit.groups())), hit.start(), hit.end()) for hit in _LEAK.finditer(text)]
    listed = _LISTED.match(text.strip())
    if listed and text.rstrip().removesuffix("<|tool_call_end|>").endswith(")]"):
        found += [Leak(hit[1], 0, hit.end()) for hit in (listed, *_NEXT.finditer(text))]
    return [leak for leak in found if tools is None or leak.name in tools]


def without_thinking(text: str) -> str:
    """A reply without the reasoning that it begins with, in `<think>` tags; all of it where the last tag is missing."""
    thought = _THOUGHT.match(text) if text.lstrip().startswith("<think>") else None
    return text[thought.end() :] if thought else text
