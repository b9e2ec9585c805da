"""Replies made at random, by structure: calls, good and broken in the ways of real models, in every place and wrapping,
and prose, lists, JSON, braces, quotes, tags and thoughts around them.
"""

from __future__ import annotations

import json
import random
from typing import Any

from second_classifier import Reply

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }
    for name, properties, required in (
        (
            "read",
            {"path": {"type": "string"}, "lines": {"type": "integer", "minimum": 1}},
            ["path", "lines"],
        ),
        ("look_up", {"query": {"type": "string"}, "exact": {"type": "boolean"}, "where": {"enum": ["a", "b"]}}, []),
        ("save", {"content": {"type": "string"}, "more": {"type": "object"}, "tags": {"type": "array"}}, ["content"]),
    )
]
TEXTS = (
    "a.py",
    "",
    "x = {'a': 1}\n",
    'say "hi"',
    "it's",
    "{",
    "}",
    "}}{{",
    "[1, 2]",
    "<tool_call>",
    "\\",
    "tab\there",
    "é\u2028",
    '{"name": "read", "arguments": {}}',
    "```",
    "</tool_call>",
    "don't {x}",
    '"',
    "'",
    '\\"',
    "a: b, c",
    "<function=read>",
)
PROSE = (
    "I will read the file.",
    "Done.",
    "It's {fixed}.",
    "Use {} or [] here.",
    "- one\n- two",
    "[x] bound fixed",
    "5 > 3 < 4",
    "...",
    "[app.py](app.py): the bound is fixed.",
    "don't {a: 1} it's",
    '"quoted"',
    "A <tool_call> tag is opened.",
    "{",
    "}",
    "[1, 2, 3]",
    "`{'a': 'b'}`",
    'The manifest is {"name": "demo", "version": "1.0"}.',
    "Let's see: {x",
    "Sure! Here it is:",
    "[read]",
    "read(x)",
    "name: read, args: none",
    '{"a": 1}',
    '{"type": "tool"}',
    "{'name': 'x', 'size': 3}",
    "<b>bold</b>",
    "<|im_end|>",
    "null",
    "true",
    "12",
    'print("{")',
    "if (a) { b(); }",
    "{% if x %}",
    "${HOME}",
    "\\frac{1}{2}",
    "f'{x}'",
    "set {1, 2}",
    "{{x}}",
)
LEAKS = (
    "<\uff5ctool\u2581call\u2581begin\uff5c>NAME<\uff5ctool\u2581sep\uff5c>ARGS<\uff5ctool\u2581call\u2581end\uff5c>",
    "<\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>NAME\n```json\nARGS\n```",
    '<invoke name="NAME">\n<parameter name="path">a.py</parameter>\n</invoke>',
    '<\uff5cDSML\uff5cinvoke name="NAME">',
    "<start_function_call>call:NAME{path:<escape>a.py<escape>}",
    "<tool_call>NAME\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n</tool_call>",
    "<tool_call>NAME</tool_call>",
    "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGS",
    "assistantcommentary to=functions.NAME jsonARGS",
    "<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGS<|tool_call_end|>",
    '<|python_tag|>NAME.call(path="a.py")',
    '<|python_tag|>{"name": "NAME", "parameters": ARGS}',
    "[TOOL_CALLS]NAME[ARGS]ARGS",
    '[TOOL_CALLS] [{"name": "NAME", "arguments": ARGS}]',
    "<function=NAME>\n<parameter=path>\na.py\n</parameter>\n</function>",
    '[NAME(path="a.py", lines=5)]',
    "[NAME(path='a.py'), NAME(lines=5)]",
)
FENCES = (("```json\n", "\n```"), ("```\n", "\n```"), ("`", "`"), ("", ""), ("", ""), ("", ""), ("", ""))


class Maker:
    """A stream of replies, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._r = random.Random(seed)

    def reply(self) -> Reply:
        protocol = self._r.choice(("json", "hermes", "native"))
        calls: list[dict[str, Any]] = []
        if protocol == "native" and self._r.random() < 0.6:
            calls = [self._beside() for _ in range(self._r.choice((1, 1, 1, 1, 2)))]
        text = self._text(protocol) if not calls or self._r.random() < 0.3 else self._r.choice(("", "I look.", "\n"))
        return Reply(text, protocol, TOOLS, self._r.random() < 0.5, self._r.random() < 0.02, calls)

    def _text(self, protocol: str) -> str:
        count = self._r.choice((0, 1, 1, 1, 1, 1, 1, 2, 2, 3))
        parts = [self._part(protocol) for _ in range(count)]
        text = self._r.choice(("", "\n", " ", "\n\n")).join(parts)
        if self._r.random() < 0.08:
            text = (
                self._r.choice(("<think>{}</think>\n", "\n<think>\n{}\n</think>", "<think>{}")).format(
                    self._part(protocol)
                )
                + text
            )
        if self._r.random() < 0.05 and text:
            text = text[: self._r.randrange(len(text))]
        return self._r.choice(("", "", "", " ", "\n")) + text + self._r.choice(("", "", "", "\n", "  "))

    def _part(self, protocol: str) -> str:
        kind = self._r.random()
        if kind < 0.3:
            return self._r.choice(PROSE)
        if kind < 0.38:
            return self._final()
        if kind < 0.46:
            return self._leak()
        fence = self._r.choice(FENCES)
        return fence[0] + self._tagged(self._call(protocol), protocol) + fence[1]

    def _tagged(self, call: str, protocol: str) -> str:
        start, end = self._r.choice((("<tool_call>", "</tool_call>"), ("<tool_call>\n", "\n</tool_call>")))
        odds = self._r.random()
        if (protocol == "hermes" and odds < 0.75) or odds < 0.05:
            return start + call + end
        if protocol == "hermes" and odds < 0.85:
            return self._r.choice(
                (start + call, call + end, start + start + call + end, start + call + "," + call + end)
            )
        return call

    def _leak(self) -> str:
        """A call in a vendor's syntax, often cut."""
        name = self._r.choice(("read", "read", "look_up", "cat"))
        text = (
            self._r.choice(LEAKS)
            .replace("NAME", name)
            .replace("[ARGS]", "[\0]")
            .replace("ARGS", json.dumps(self._arguments(name)))
        )
        text = text.replace("\0", "ARGS")
        return text[: self._r.randrange(len(text) + 1)] if self._r.random() < 0.2 else text

    def _final(self) -> str:
        record = self._r.choice(
            (
                {"type": "final", "summary": "Done."},
                {"type": "final"},
                {"type": "final", "summary": 3},
                {"type": "final", "summary": "x", "passed": True},
                {"type": "final", "summary": '{"type":"tool_call"}'},
            )
        )
        return json.dumps(record)

    def _call(self, protocol: str) -> str:
        """A call's object as a text."""
        record = self._record(protocol)
        text = json.dumps(record, ensure_ascii=self._r.random() < 0.5, indent=self._r.choice((None, None, 1)))
        return self._broken(text, record) if self._r.random() < 0.4 else text

    def _record(self, protocol: str) -> dict[str, Any]:
        name = self._r.choice(("read", "read", "read", "look_up", "save", "cat", "tool_call"))
        args = self._arguments(name)
        own = {"json": {"type": "tool_call", "name": name, "args": args}}.get(
            protocol, {"name": name, "arguments": args}
        )
        if self._r.random() < 0.75:
            return own
        record = self._r.choice(
            (
                {"type": "tool_call", "name": name, "args": args},
                {"name": name, "arguments": args},
                {"name": name, "args": args},
                {"type": "function", "name": name, "arguments": args},
                {"tool": name, "args": args},
                {**own, "id": "1"},
                {"arguments": args, "name": name},
                {"name": name},
                {"args": args},
                {**own, "name": None},
                {**own, "args": "x"},
                {"name": name, "parameters": args},
                {"type": "function", "function": {"name": name, "arguments": args}},
                {"type": "tool_call", "args": args},
                {"name": name, "arguments": json.dumps(args)},
                {"name": [name], "arguments": args},
                {"items": [own, own]},
                {"call": own},
                [own],
                {"type": name, "args": args},
            )
        )
        return record if isinstance(record, dict) else {"list": record}

    def _arguments(self, name: str) -> dict[str, Any]:
        def words() -> str:
            return self._r.choice(TEXTS)

        args: dict[str, Any] = {
            "read": {"path": words(), "lines": 5},
            "look_up": {"query": words(), "exact": True},
            "save": {"content": words(), "more": {"a": words(), "name": "read", "arguments": {}}, "tags": [words()]},
        }.get(name, {"x": words()})
        if self._r.random() < 0.3:
            key = self._r.choice(list(args))
            args = dict(args)
            self._r.choice(
                (
                    lambda: args.pop(key),
                    lambda: args.update(extra=words()),
                    lambda: args.update({key: self._r.choice((None, 3, "3", True, [], {}, 2.5))}),
                    lambda: args.update(lines=self._r.choice((0, -1, 1))),
                    lambda: args.update(where=self._r.choice(("a", "z"))),
                )
            )()
        return args

    def _broken(self, text: str, record: dict[str, Any]) -> str:
        return self._r.choice(
            (
                lambda: repr(record),
                lambda: text[:-1] + ",}",
                lambda: text.replace(": true", ": True").replace(": null", ": None"),
                lambda: text.replace(": 5", ": NaN"),
                lambda: text.replace(": 5", ": 0x10"),
                lambda: text.replace("}", '}, "args": {}}', 1) if text.count("}") > 1 else text,
                lambda: text[: self._r.randrange(len(text) + 1)],
                lambda: text[:-1],
                lambda: text + "}",
                lambda: text.replace("\\n", "\n"),
                lambda: text.replace('"', "'"),
                lambda: text.replace('"', '\\"'),
                lambda: text.replace('\\"', '"'),
                lambda: text.replace('", "', '" "', 1),
                lambda: text.replace('"name"', "name"),
                lambda: text.replace("{", "{ ", 1).replace(":", " :"),
                lambda: text.replace("{", "{{").replace("}", "}}"),
                lambda: "[" + text + "]",
                lambda: "[" + text + ", " + text + "]",
                lambda: text.replace(": 5", ": 5 # five"),
            )
        )()

    def _beside(self) -> dict[str, Any]:
        """A native call, as a server sends it."""
        name = self._r.choice(("read", "read", "read", "look_up", "save", "cat", "", None))
        args = self._arguments(name or "read")
        text = json.dumps(args)
        if self._r.random() < 0.3:
            text = self._r.choice(
                (
                    repr(args),
                    text[:-1],
                    text[:-1] + ",}",
                    "",
                    "null",
                    "[1]",
                    '"x"',
                    json.dumps(text),
                    "{}",
                    "NaN",
                    text.replace("5", "NaN"),
                )
            )
        return {"name": name, "arguments": text}
