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

TAG = "<tool_call>"
MARKERS = (TAG, "<tool_calls>", "<|python_tag|>", "<|tool_call|>", "<|plugin|>", "[TOOL_CALLS]", "<function_call>")
NAME = r"(?:functions\.)?([\w-]+(?:\.[\w-]+)*)"
VENDORS = re.compile(
    "|".join(
        (
            rf'<(?:antml:|\uff5cDSML\uff5c)?invoke name="{NAME}">',
            rf"<\uff5ctool\u2581call\u2581begin\uff5c>(?:function<\uff5ctool\u2581sep\uff5c>)?{NAME}(?:<\uff5ctool\u2581sep\uff5c>)?",
            rf"<start_function_call>\s*call:{NAME}(?={{)",
            rf"<tool_call>\s*{NAME}\s*(?:(?=<arg_key>|</tool_call>)|```)",
            rf"\bto=functions\.([\w-]+)[^{{]{{0,99}}|<\|channel\|>\w+ to={NAME}[^{{]{{0,99}}",
            rf"<\|tool_call_begin\|>\s*{NAME}(?::\d+)?\s*<\|tool_call_argument_begin\|>",
            rf"<\|python_tag\|>\s*{NAME}\.call\(",
            rf"\[TOOL_CALLS\]\s*{NAME}\s*(?:\[ARGS\])?",
            rf"<function={NAME}>",
        )
    )
)
KEY = re.compile(r"""\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[A-Za-z_]\w*)\s*:""", re.S)
CALL_NAMES, CALL_ARGS = {"type", "name"}, {"args", "arguments"}
ORDER = "json_invalid envelope_invalid unknown_tool missing_arg unexpected_arg wrong_type bad_value ok".split()
TYPES = {
    "any": lambda v: True,
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
    parallel: bool = False
    """Whether it is another agent's, which may get several calls."""


def classify(reply: Reply) -> str:
    if reply.truncated:
        return "truncated"
    if reply.protocol == "native" and reply.calls:
        return _beside(reply)
    text = _judged(reply)
    if reply.protocol == "json" and _is_object(text):
        return _whole(text, reply)
    found = _Found(text, reply)
    if found.opened:
        return "no_call"
    if not found.calls and not found.leaks:
        return _without_a_call(text, reply)
    if len(found.calls) + found.leaks > 1:
        return "multiple_calls"
    if found.leaks:
        return "wrapped"
    start, end = found.calls[0]
    before, after = text[:start].strip(), text[end:].strip()
    if reply.protocol == "hermes" and before in ("", TAG) and after in ("", "</tool_call>"):
        tagged = bool(before and after)
        return _judge(text[start:end], reply) if tagged or not _is_object(text[start:end]) else "envelope_invalid"
    if before or after:
        return "wrapped"
    return "envelope_invalid" if _is_object(text[start:end]) else "json_invalid"


def _beside(reply: Reply) -> str:
    """The text beside native calls is not searched."""
    if len(reply.calls) > 1 and not reply.parallel:
        return "multiple_calls"
    found = {_call_beside(call, reply) for call in reply.calls}
    return next(name for name in ORDER if name in found)


def _call_beside(call: dict[str, Any], reply: Reply) -> str:
    if not call["arguments"].strip() and _requires_nothing(call["name"], reply):
        return _arguments(call["name"], {}, reply.tools)
    try:
        args = strict(call["arguments"])
    except ValueError:
        return "json_invalid"
    if not isinstance(args, dict) or not call["name"]:
        return "envelope_invalid"
    return _arguments(call["name"], args, reply.tools)


def _requires_nothing(name: str, reply: Reply) -> bool:
    declared = [tool["function"] for tool in reply.tools if tool["function"]["name"] == name]
    return bool(declared) and not declared[0]["parameters"].get("required")


def _whole(text: str, reply: Reply) -> str:
    """`json`: the whole reply is one object."""
    value = strict(text)
    if value.get("type") == "final" and isinstance(value.get("summary"), str):
        return "final" if reply.after_a_call else "early_final"
    return _judge(text, reply)


def _judged(reply: Reply) -> str:
    return re.sub(r"\A\s*<think>.*?(</think>|\Z)", "", reply.text, flags=re.S).strip()


def _is_object(text: str) -> bool:
    try:
        return isinstance(strict(text), dict)
    except ValueError:
        return False


def _without_a_call(text: str, reply: Reply) -> str:
    final = False
    try:
        value = strict(text)
        final = isinstance(value, dict) and value.get("type") == "final" and isinstance(value.get("summary"), str)
    except ValueError:
        pass
    if not final and reply.protocol == "json":
        return "no_call"
    if not text or (reply.protocol == "hermes" and re.fullmatch(r"<tool_call>.*</tool_call>", text, re.S)):
        return "no_call"
    return "final" if reply.after_a_call else "early_final"


def _judge(span: str, reply: Reply) -> str:
    try:
        value = strict(span)
    except ValueError:
        return "json_invalid"
    keys, args = (
        ({"type", "name", "args"}, "args") if reply.protocol == "json" else ({"name", "arguments"}, "arguments")
    )
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
    if not all(TYPES[known[key].get("type", "any")](value) for key, value in args.items()):
        return "wrong_type"
    for key, value in args.items():
        if known[key].get("format") == "relative-path" and _is_bad_path(value):
            return "bad_value"
        low, high = known[key].get("minimum"), known[key].get("maximum")
        if "enum" in known[key] and value not in known[key]["enum"]:
            return "bad_value"
        if (low is not None and value < low) or (high is not None and value > high):
            return "bad_value"
    return "ok"


def _is_bad_path(path: str) -> bool:
    parts = path.split("/")
    return len(path) > 1000 or len(parts) > 64 or ".." in parts or path.startswith("/") or "\\" in path or "\0" in path


@dataclass
class _Object:
    start: int
    end: int | None
    """None: it never closes."""
    keys: dict[str, str]
    """Its own keys, each with the string or word that is its value, or ""."""
    braces: list[int]
    """Where there are braces in it, outside strings."""

    def has_keys(self) -> bool:
        return bool(CALL_NAMES & set(self.keys) and CALL_ARGS & set(self.keys))

    def is_final(self) -> bool:
        return self.keys.get("type") == "final" and "summary" in self.keys


class _Found:
    """The calls of a reply, by the numbered rules of docs/eval.md."""

    def __init__(self, text: str, reply: Reply) -> None:
        self._text, self._reply = text, reply
        self._names = {tool["function"]["name"] for tool in reply.tools}
        outermost, self.opened = self._outermost([place for place, char in enumerate(text) if char == "{"])
        self.calls = [(one.start, one.end) for one in self._calls(outermost)]
        hits = [hit for hit in VENDORS.finditer(text) if next(filter(None, hit.groups())) in self._names]
        listed = re.match(r"(?:<\|tool_call_start\|>)?\s*\[\s*(?:functions\.)?([\w.-]+)\(", text)
        if listed and listed[1] in self._names and text.removesuffix("<|tool_call_end|>").rstrip().endswith(")]"):
            hits.append(listed)
            hits += [hit for hit in re.finditer(r"\)\s*,\s*(?:functions\.)?([\w.-]+)\(", text) if hit[1] in self._names]
        hits = [hit for hit in hits if not any(one.start <= hit.start() < one.end for one in outermost)]
        self.leaks = len(hits)
        closed = {one.start for one in outermost}
        tags = [
            tag for tag in re.finditer(TAG, text) if not any(one.start <= tag.start() < one.end for one in outermost)
        ]
        for hit in [*hits, *tags]:
            rest = text[hit.end() :].lstrip()
            opens = rest.startswith("{") and not re.match(r"\{\s*\}", rest) and len(text) - len(rest) not in closed
            self.opened = self.opened or opens or not rest

    def _outermost(self, places: list[int]) -> tuple[list[_Object], bool]:
        """The outermost objects that close, of those that begin at some of these places, and rule 6's first half."""
        found: list[_Object] = []
        opened, end = False, 0
        for _number, place in enumerate(places):
            if place < end or not KEY.match(self._text, place + 1):
                continue
            one = _walk(self._text, place)
            if one.end is None:  # all that follows is inside of it
                inside, more = self._outermost(one.braces)
                return found + inside, opened or more or one.has_keys()
            found.append(one)
            end = one.end
        return found, opened

    def _calls(self, objects: list[_Object]) -> list[_Object]:
        calls = []
        for one in objects:
            if self._counts(one):
                calls.append(one)
            elif not one.has_keys() and not one.is_final() and one.keys.get("type") != "tool_call":
                calls += self._calls(self._outermost(one.braces)[0])
        return calls

    def _counts(self, one: _Object) -> bool:
        before = re.sub(r"\s*\[?\s*\Z", "", self._text[: one.start])
        if self._reply.protocol == "hermes" and before.endswith(TAG):
            return True
        if self._reply.protocol == "json":
            whole = one.has_keys() and one.end - one.start == len(self._text)
            if whole or one.keys.get("type") == "tool_call" or one.is_final():
                return True
        marked = before.endswith(MARKERS) and {"name", "parameters"} <= set(one.keys)
        return (one.has_keys() or marked) and one.keys.get("name") in self._names


def _walk(text: str, start: int) -> _Object:
    one = _Object(start, None, {}, [])
    stack, at, before, last, key = ["{"], start + 1, "{", "", ""
    while at < len(text):
        char = text[at]
        end = _string_end(text, at) if char == '"' or (char == "'" and before in "{[,:") else None
        word = re.compile(r"[A-Za-z_]\w*").match(text, at)
        if end or word:
            said, at = (text[at + 1 : end - 1], end) if end else (word[0], word.end())
            if stack == ["{"]:
                if before == ":" and key:
                    one.keys[key] = one.keys[key] or said
                last = said
            before = "s"
            continue
        if char == ":" and stack == ["{"] and before == "s":
            key = last
            one.keys.setdefault(key, "")
        if char in "{[":
            stack.append(char)
            one.braces += [at] if char == "{" else []
        elif char == "]" and stack[-1] == "[":
            stack.pop()
        elif char == "}":
            while stack.pop() == "[":
                pass
            if not stack:
                one.end = at + 1
                return one
        before = before if char.isspace() else char
        at += 2 if char == "\\" else 1
    return one


def _string_end(text: str, at: int) -> int | None:
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == quote:
            return at + 1
        at += 1
    return None


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
    if reply.protocol == "native" and reply.calls:
        alone = len(reply.calls) == 1 or reply.parallel
        return alone and all(_lenient_beside(call, reply) for call in reply.calls)
    text = _judged(reply)
    found = _Found(text, reply)
    if found.opened or len(found.calls) != 1 or found.leaks:
        return False
    value = _forgiving(text[slice(*found.calls[0])], python=True)
    if not isinstance(value, dict) or len(CALL_ARGS & set(value)) != 1:
        return False
    return _takes(value.get("name"), value.get("args", value.get("arguments")), reply)


def _lenient_beside(call: dict[str, Any], reply: Reply) -> bool:
    text = call["arguments"].strip()
    if not text and _requires_nothing(call["name"], reply):
        text = "{}"
    return _takes(call["name"], _forgiving(text, python=False), reply)


def _takes(name: Any, args: Any, reply: Reply) -> bool:
    return isinstance(name, str) and isinstance(args, dict) and _arguments(name, args, reply.tools) == "ok"


def _forgiving(text: str, python: bool) -> Any:
    try:
        return json.loads(text, strict=False)
    except ValueError:
        pass
    if python and re.match(r"\{\s*'", text):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass
    return None
