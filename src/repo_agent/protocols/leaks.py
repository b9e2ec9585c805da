"""Calls in the syntax of some vendor's template that a server's own parser left in the text, and inline thinking."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

_NAME = r"(?:functions\.)?([\w-]+(?:\.[\w-]+)*)"
_SEP = r"<\uff5ctool\u2581sep\uff5c>"
_SYNTAXES = (
    rf"<\uff5ctool\u2581call\u2581begin\uff5c>(?:function{_SEP})?{_NAME}(?:{_SEP})?",  # DeepSeek
    rf"<\|channel\|>\w+ to={_NAME}[^{{]{{0,99}}",  # gpt-oss (Harmony)
    rf"<\|python_tag\|>\s*{_NAME}\.call\(",  # Llama 3
    rf"<function={_NAME}>",  # Qwen3-Coder
    rf"\[TOOL_CALLS\]\s*{_NAME}\s*(?:\[ARGS\])?",  # Mistral
    rf"<\|tool_call_begin\|>\s*{_NAME}(?::\d+)?\s*<\|tool_call_argument_begin\|>",  # Kimi
    rf"<tool_call>\s*{_NAME}\s*<arg_key>",  # GLM
    rf'<(?:antml:)?invoke name="{_NAME}">',  # Anthropic
)
_LEAK = re.compile("|".join(_SYNTAXES))
_LISTED = re.compile(rf"(?:<\|tool_call_start\|>)?\s*\[\s*{_NAME}\(")
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
        found.append(Leak(listed[1], 0, listed.end()))
    return [leak for leak in found if tools is None or leak.name in tools]


def without_thinking(text: str) -> str:
    """A reply without the reasoning that it begins with, in `<think>` tags; all of it where the last tag is missing."""
    thought = _THOUGHT.match(text) if text.lstrip().startswith("<think>") else None
    return text[thought.end() :] if thought else text
