"""A second reading of a reply, written from docs/eval.md and docs/models.md alone: it shares no code with `protocols`.

It is slow and plain on purpose (a loop over characters for each brace), so that a reader can hold it beside the pages.
`tests/test_second_classifier.py` compares the two on made replies; where they differ one of the three is wrong.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from typing import Any

CALL_NAMES, CALL_ARGS = {"type", "name"}, {"args", "arguments"}
TYPES = {
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}


@dataclass
class Reply:
    text: str
    protocol: str = "json"
    tools: list[dict[str, Any]] = field(default_factory=list)
    after_a_call: bool = False
    truncated: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)
    """native: `{name, arguments}` beside the text, arguments as the server sent them."""


def classify(reply: Reply) -> str:
    if reply.truncated:
        return "truncated"
    text = re.sub(r"\A\s*<think>.*?</think>", "", reply.text, flags=re.S).strip()
    names = {tool["function"]["name"] for tool in reply.tools}
    if reply.protocol == "native":
        return _native(text, reply, names)
    spans, opened = _objects(text)
    if opened:
        return "no_call"
    calls = [s for s in spans if _is_call(text, s, reply.protocol, names)]
    if not calls:
        return _without_a_call(text, reply)
    if len(calls) > 1:
        return "multiple_calls"
    start, end = calls[0]
    if not _in_its_place(text, start, end, reply.protocol):
        bare = (start, end) == (0, len(text))
        tag_alone = text[:start].strip() in ("", "<tool_call>") and text[end:].strip() in ("", "</tool_call>")
        return "envelope_invalid" if reply.protocol == "hermes" and (bare or tag_alone) else "wrapped"
    return _judge(text[start:end], reply)


def _native(text: str, reply: Reply, names: set[str]) -> str:
    spans, opened = _objects(text)
    if opened:
        return "no_call"
    inside = [s for s in spans if _is_call(text, s, "native", names)]
    total = len(inside) + len(reply.calls)
    if total == 0:
        return _without_a_call(text, reply)
    if total > 1:
        return "multiple_calls"
    if inside:
        return "envelope_invalid" if inside[0] == (0, len(text)) else "wrapped"
    call = reply.calls[0]
    try:
        args = strict(call["arguments"])
    except ValueError:
        return "json_invalid"
    if not isinstance(args, dict) or not call["name"]:
        return "envelope_invalid"
    return _arguments(call["name"], args, reply.tools)


def _without_a_call(text: str, reply: Reply) -> str:
    final = False
    try:
        value = strict(text)
        final = isinstance(value, dict) and value.get("type") == "final" and isinstance(value.get("summary"), str)
    except ValueError:
        pass
    if not final and reply.protocol == "json":
        return "no_call"
    if not text or (reply.protocol == "hermes" and re.search(r"<tool_call>.*</tool_call>", text, re.S)):
        return "no_call"
    return "final" if reply.after_a_call else "early_final"


def _judge(span: str, reply: Reply) -> str:
    try:
        value = strict(span)
    except ValueError:
        return "json_invalid"
    keys, args = ({"type", "name", "args"}, "args") if reply.protocol == "json" else ({"name", "arguments"}, "arguments")
    if set(value) != keys or not isinstance(value["name"], str) or not isinstance(value[args], dict):
        return "envelope_invalid"
    if reply.protocol == "json" and value["type"] != "tool_call":
        return "envelope_invalid"
    return _arguments(value["name"], value[args], reply.tools)


def _arguments(name: str, args: dict[str, Any], tools: list[dict[str, Any]]) -> str:
    schema = next((t["function"]["parameters"] for t in tools if t["function"]["name"] == name), None)
    if schema is None:
        return "unknown_tool"
    known = schema["properties"]
    if any(key not in args for key in schema.get("required", [])):
        return "missing_arg"
    if any(key not in known for key in args):
        return "unexpected_arg"
    if not all(TYPES[known[key]["type"]](value) for key, value in args.items()):
        return "wrong_type"
    for key, value in args.items():
        low, high = known[key].get("minimum"), known[key].get("maximum")
        if "enum" in known[key] and value not in known[key]["enum"]:
            return "bad_value"
        if (low is not None and value < low) or (high is not None and value > high):
            return "bad_value"
    return "ok"


def _objects(text: str) -> tuple[list[tuple[int, int]], bool]:
    """The outermost objects that close, and whether a call was opened that never closes."""
    spans, at, opened = [], 0, False
    while (at := text.find("{", at)) >= 0:
        end, keys = _walk(text, at)
        if end is None:
            opened = opened or _has_keys(keys)
            if opened:
                break
            at += 1
        else:
            spans.append((at, end))
            at = end
    return spans, opened


def _walk(text: str, start: int) -> tuple[int | None, list[str]]:
    """Where the object at `start` ends (None: never), and its own keys."""
    depth, at, before, keys = 0, start, "", []
    while at < len(text):
        char = text[at]
        if char == '"' or (char == "'" and before in "{[,:"):
            close = _string_end(text, at)
            if close is None:
                return None, keys
            if depth == 1 and re.match(r"\s*:", text[close:]):
                keys.append(text[at + 1 : close - 1])
            at, before = close, char
            continue
        depth += (char in "{[") - (char in "}]")
        if depth == 0:
            return at + 1, keys
        if not char.isspace():
            before = char
        at += 1
    return None, keys


def _string_end(text: str, at: int) -> int | None:
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == quote:
            return at + 1
        at += 1
    return None


def _has_keys(keys: list[str]) -> bool:
    return bool(CALL_NAMES & set(keys) and CALL_ARGS & set(keys))


def _is_call(text: str, span: tuple[int, int], protocol: str, names: set[str]) -> bool:
    _, keys = _walk(text, span[0])
    if not _has_keys(keys):
        return False
    if _in_its_place(text, *span, protocol):
        return True
    body = text[span[0] : span[1]]
    typed = re.search(r"""["']type["']\s*:\s*["']tool_call["']""", body)
    named = any(re.search(rf"""["']name["']\s*:\s*["']{re.escape(name)}["']""", body) for name in names)
    return bool(typed or named)


def _in_its_place(text: str, start: int, end: int, protocol: str) -> bool:
    if protocol == "json":
        return (start, end) == (0, len(text))
    if protocol == "hermes":
        return bool(re.fullmatch(r"<tool_call>\s*", text[:start]) and re.fullmatch(r"\s*</tool_call>", text[end:]))
    return False


def strict(text: str) -> Any:
    """JSON without a key twice and without NaN."""

    def no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def refuse(name: str) -> Any:
        raise ValueError(name)

    return json.loads(text, object_pairs_hook=no_twice, parse_constant=refuse)


def lenient(reply: Reply) -> bool:
    """A forgiving parse gives exactly one call and the schema takes it."""
    text = re.sub(r"\A\s*<think>.*?</think>", "", reply.text, flags=re.S).strip()
    names = {tool["function"]["name"] for tool in reply.tools}
    spans, opened = _objects(text)
    calls = [s for s in spans if _is_call(text, s, reply.protocol, names)]
    if reply.truncated or opened or len(calls) != 1:
        return False
    body = text[calls[0][0] : calls[0][1]]
    value: Any = None
    try:
        value = json.loads(body, strict=False)
    except ValueError:
        if re.match(r"\{\s*'", body):
            try:
                value = ast.literal_eval(body)
            except (ValueError, SyntaxError):
                return False
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    args = value.get("args", value.get("arguments"))
    return isinstance(args, dict) and _arguments(value["name"], args, reply.tools) == "ok"
