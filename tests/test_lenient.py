"""What is a call in a reply that is not legal: spans, leaks, the forgiving parse; and what judging any reply costs."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_agent.messages import ToolCall, spoken
from repo_agent.protocols import PROTOCOLS, stray
from repo_agent.protocols.lenient import any_object
from repo_agent.protocols.spans import scan
from repo_agent.tools.files import default_registry
from repo_agent.tools.registry import Registry, ToolSpec
from repo_agent.tools.verdict import TURN_CLASSES, Parsed, judge, lenient_ok

FIXTURE = Path(__file__).parent / "fixtures" / "verdict.jsonl"
ANY = ToolSpec("f", "", {"type": "object", "additionalProperties": True})
REGISTRY = Registry([*default_registry().specs.values(), ANY])
ARGS = {"rel_path": "a.py", "max_chars": 9}
CALL = ToolCall("read_file", ARGS)
BARE = json.dumps({"name": "read_file", "arguments": ARGS})


def parse(wire: str, text: str) -> Parsed:
    return PROTOCOLS[wire].parse(text, REGISTRY.specs)


def said(wire: str, text: str) -> str:
    """A text as a reply in a protocol."""
    return spoken(text, []) if wire == "native" else text


def turn_class(wire: str, text: str, any_call: bool = True) -> str:
    return judge(parse(wire, text), REGISTRY, truncated=False, any_call=any_call).turn_class or "ok"


@pytest.mark.parametrize("line", FIXTURE.read_text().splitlines())
def test_each_case_has_its_class(line: str) -> None:
    case = json.loads(line)
    wire, text = case["protocol"], case["text"]
    assert turn_class(wire, text, case.get("after_a_call", False)) == case["class"]
    if "lenient" in case:
        assert lenient_ok(parse(wire, text), REGISTRY) is case["lenient"]


JSON_CALL = PROTOCOLS["json"].render_call(CALL)
BEGIN, SEP = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581sep\uff5c>"
ARGUMENTS = '{"rel_path": "calc.py"}'
LEAKS = {
    "deepseek": f"<\uff5ctool\u2581calls\u2581begin\uff5c>{BEGIN}read_file{SEP}{ARGUMENTS}",
    "deepseek, older": f"{BEGIN}function{SEP}read_file\n```json\n{ARGUMENTS}\n```",
    "harmony": f"<|channel|>commentary to=functions.read_file <|constrain|>json<|message|>{ARGUMENTS}",
    "llama": '<|python_tag|>read_file.call(rel_path="calc.py", max_chars=200)',
    "llama, json": f'<|python_tag|>{{"name": "read_file", "parameters": {ARGUMENTS}}}',
    "qwen3-coder": "<function=read_file>\n<parameter=rel_path>\ncalc.py\n</parameter>\n</function>\n</tool_call>",
    "mistral": f'[TOOL_CALLS] [{{"name": "read_file", "arguments": {ARGUMENTS}}}]',
    "mistral, newer": f"[TOOL_CALLS]read_file[ARGS]{ARGUMENTS}",
    "kimi": f"<|tool_call_begin|>functions.read_file:0<|tool_call_argument_begin|>{ARGUMENTS}",
    "glm": "<tool_call>read_file\n<arg_key>rel_path</arg_key>\n<arg_value>calc.py</arg_value>\n</tool_call>",
    "xml": '<invoke name="read_file"><parameter name="rel_path">calc.py</parameter></invoke>',
    "gemma": "<start_function_call>call:read_file{rel_path:<escape>calc.py<escape>}<end_function_call>",
    "hunyuan": f"<tool_call>read_file\n```json\n{ARGUMENTS}\n```\n</tool_call>",
    "minimax": f'<tool_calls>\n{{"name": "read_file", "arguments": {ARGUMENTS}}}\n</tool_calls>',
    "deepseek, newest": '<\uff5cDSML\uff5cinvoke name="read_file">\n</\uff5cDSML\uff5cinvoke>',
    "harmony, markers stripped": f"assistantcommentary to=functions.read_file json{ARGUMENTS}",
    "openai": f'Look: {{"type": "function", "function": {{"name": "read_file", "arguments": {ARGUMENTS}}}}}',
    "internlm": f'<|action_start|><|plugin|>{{"name": "read_file", "parameters": {ARGUMENTS}}}',
    "mistral, no arguments": "[TOOL_CALLS]read_file{}",
    "a list": '[read_file(rel_path="calc.py", max_chars=200)]',
    "prose around": f"I will look.\n```json\n{BARE}\n```",
}


@pytest.mark.parametrize("wire", PROTOCOLS)
@pytest.mark.parametrize("how", LEAKS)
def test_a_call_in_another_syntax_is_wrapped_and_only_of_a_declared_tool(wire: str, how: str) -> None:
    text = LEAKS[how]
    assert turn_class(wire, said(wire, text)) == "wrapped"
    assert turn_class(wire, said(wire, f"{text}\n{text}")) in ("multiple_calls", "wrapped")
    other = "no_call" if wire == "json" or (wire == "hermes" and how in ("glm", "hunyuan")) else "final"
    assert turn_class(wire, said(wire, text.replace("read_file", "cat"))) == other


@pytest.mark.parametrize("wire", PROTOCOLS)
@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{BARE[:-2]}",
        "<tool_call>",
        "Look:\n<tool_call>\n",
        '<tool_call>\n{"name": "read_file"\n</tool_call>',
        f"{BARE[:-1]}",
        f"Sure: {BARE[:-1]}",
        f"{BARE}\n{BARE[:-1]}",
        '{"type": "tool_call", "name": "write_file", "args": {"content": ' + JSON_CALL,
        '<|tool_call_begin|>functions.read_file:0<|tool_call_argument_begin|>{"rel_path": "calc.py"',
        "<think>I should call read_file",
        "",
    ],
)
def test_a_call_that_never_closes_is_no_call(wire: str, text: str) -> None:
    assert turn_class(wire, said(wire, text)) == "no_call"
    assert not lenient_ok(parse(wire, said(wire, text)), REGISTRY)


@pytest.mark.parametrize("wire", ["hermes", "native"])
@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "{}", '{"a": 1}', "[x](y) is fixed", "use the tag <tool_call> for it", "{name} and {args} are formatted",
     'The manifest is {"name": "demo", "args": {}} and stays.', '{"name": "demo", "arguments": {}}', "[cat(x=1)]",
     "f(x) {", "[read_file, grep]", '{"type": "final"}', "don't {it's} fine", "if (x) { return {name: 1, args: 2} }",
     'see {"name": "read_file", "description": "Read.", "parameters": {}}', "- [x] bound fixed\n- [ ] docs",
     "| a | b |\n|---|---|\n| {x} | <tag> |", 'It prints {"items": [{"name": "read_file"}]} now.',
     "The <function> tag stays.",
     "The <function> tag stays.", '```json\n{"name": "demo", "version": "1.0"}\n```', "{{ name }} is a Jinja tag",
     "Call `read_file(path)` first.",
     'f"{name}: {args}" is printed', "[TOOL_CALLS] is Mistral's marker", "}", "dict(name='x', args={})", "set {1, 2}",
     "`<tool_call>` and `</tool_call>` are Qwen's tags."],
)  # fmt: skip
def test_a_text_without_a_call_is_a_final(wire: str, text: str) -> None:
    assert parse(wire, said(wire, text)).final == {"type": "final", "summary": text}


def test_tags_with_something_else_in_them_are_no_final() -> None:
    assert turn_class("hermes", "<tool_call>\nread_file a.py\n</tool_call>") == "no_call"
    assert turn_class("hermes", '<tool_call>\n{"name": "read_file",}\n</tool_call>') == "json_invalid"


def test_thinking_is_split_off() -> None:
    thought = "<think>\nPerhaps " + JSON_CALL + " or {\n</think>\n\n"
    for wire in ("json", "hermes"):
        text = PROTOCOLS[wire].render_call(CALL)
        assert parse(wire, thought + text).call == CALL
        assert turn_class(wire, text.replace("a.py", "<think>x</think>")) == "ok"
    assert parse("native", said("native", thought + "Done.")).final == {"type": "final", "summary": "Done."}


WRITE = ToolCall(
    "write_file", {"rel_path": "a.md", "content": f"<tool_call>\n{BARE}\n</tool_call> <function=read_file>"}
)


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_what_is_inside_a_call_is_never_taken_for_another(wire: str) -> None:
    inner = json.dumps(WRITE.args)
    assert turn_class(wire, PROTOCOLS[wire].render_call(WRITE)) == "ok"
    text = said(wire, f'Here: {{"name": "write_file", "arguments": {inner}}}')
    assert turn_class(wire, text) == "wrapped" and parse(wire, text).lenient == WRITE
    broken = said(wire, f'Here: {{"name": "write_file", "arguments": {inner},}}')
    assert turn_class(wire, broken) == "wrapped" and parse(wire, broken).lenient is None


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ('{"a": "}"} x {"b": 1}', ['{"a": "}"}', '{"b": 1}']),
        ("it's {x: {'b': '}'}} isn't", ["{x: {'b': '}'}}"]),
        ('{"a": "\\"}"}', ['{"a": "\\"}"}']),
        ('{ {"a": 1}', ['{"a": 1}']),
        ('{"a": {"b": 1}', ['{"b": 1}']),
        ('{{"a": 1}}', ['{"a": 1}']),
        ('{"a": [1, {"b": 2}, "]}"]} }', ['{"a": [1, {"b": 2}, "]}"]}']),
        ('{"a": [}', ['{"a": [}']),
        ("{'a': 'it''s'}", ["{'a': 'it''s'}"]),
        ("{note: it's} {b: that's}", ["{note: it's}", "{b: that's}"]),
        ('{"a": "x {"b": 1}', ['{"a": "x {"b": 1}']),
        ("plain } text { and [", []),
    ],
)
def test_spans_are_the_outermost_objects_that_close(text: str, spans: list[str]) -> None:
    assert [text[span.start : span.end] for span in scan(text).spans] == spans


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), values, min_size=1, max_size=3), st.text("ab }]'\"\n"), st.text("ab '\n"))
def test_any_json_object_is_one_span_in_any_prose(value: dict[str, Any], after: str, before: str) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        (span,) = scan(before + text + after).spans
        assert (span.start, span.end) == (len(before), len(before) + len(text))
        assert any_object(text) == value
    (span,) = scan(before + repr(value)).spans
    assert span.end == len(before) + len(repr(value)) and any_object(repr(value)) in (value, None)


@pytest.mark.parametrize(
    "text",
    ["{1: 2}", "{'a': {1: 2}}", "{'a': (1, 2)}", "{'a': {1, 2}}", "{'a': b''}", "{'a': 1j}", "{'a': f()}",
     "{'a': 1 + 1}", "{'a': -x}", "{'a': 0x10}", "{}x", "[1]",
     "{'a': " + "[" * 99 + "]" * 99 + "}", "{'a': " + "[" * 9999, "{'a': " + "-" * 15_000 + "1}",
     '{"a": ' + "[" * 9999 + "]" * 9999 + "}", "{'a': 1" + "0" * 9000 + "}"],
)  # fmt: skip
def test_what_is_no_json_value_is_not_read(text: str) -> None:
    assert any_object(text) is None


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_what_is_strange_is_classed(wire: str) -> None:
    quoted = JSON_CALL.replace('"', "'")
    assert turn_class(wire, said(wire, ", ".join([quoted] * 50))) == "multiple_calls"
    for inside in ("{1: 2}", "{None: 1, (1, 2): 3}", '{"a":' * 5_000 + "1" + "}" * 5_000, "[" * 5_000 + "]" * 5_000):
        text = f'{{"type": "tool_call", "name": "f", "args": {inside}}}'
        assert turn_class(wire, said(wire, text)) in ("json_invalid", "envelope_invalid")
        assert turn_class(wire, said(wire, f"Look: {text}")) == "wrapped"
    if wire == "native":
        assert turn_class(wire, spoken("", [{"name": "f", "arguments": "[" * 5_000}])) == "json_invalid"
        assert turn_class(wire, spoken("", [{"name": "f", "arguments": {"a": 1}, "x": 2}])) == "ok"


@pytest.mark.parametrize("wire", PROTOCOLS)
@pytest.mark.parametrize("name", ["function", "tool_calls", "action"])
def test_a_call_in_an_object_that_is_none_is_found(wire: str, name: str) -> None:
    inner = '{"name": "f", "arguments": {}}'
    for text, expected in (
        (f'x {{"{name}": {inner}}}', "wrapped"),
        (f'x {{"{name}": [{inner}, {inner}]}}', "multiple_calls"),
    ):
        assert turn_class(wire, said(wire, text)) == expected
        assert lenient_ok(parse(wire, said(wire, text)), REGISTRY) == (expected == "wrapped")


def test_keys_count_without_commas_and_two_sets_of_arguments_are_not_credited() -> None:
    assert turn_class("json", '{"name": "f" "args": {}}') == "json_invalid"
    assert turn_class("hermes", '{"n": 1 "name": "f" "arguments": {}}') == "json_invalid"
    assert not lenient_ok(parse("json", '{"name": "f", "args": {}, "arguments": {"a": 1}}'), REGISTRY)


PIECES = [
    BARE, JSON_CALL, JSON_CALL.replace('"', "'"), '{"name": "f", "args": {}', "{'name': 'f', 'args': {}}",
    '{"name": "f", "args": {}}', "<tool_call>", "</tool_call>", "```", "<think>", "</think>", "{", "}", "[", "]", '"',
    "'", "\\", ":", ",", "name", "args", "read_file", "\n", " ", "é", *LEAKS.values(),
]  # fmt: skip
MADE = (CALL, ToolCall("f", {}), ToolCall("read_file", json.loads(ARGUMENTS)))


@settings(max_examples=300)
@given(st.sampled_from(list(PROTOCOLS)), st.lists(st.sampled_from(PIECES), max_size=8))
def test_lenient_credits_one_call_that_the_model_made(wire: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    parsed = parse(wire, said(wire, text))
    assert turn_class(wire, said(wire, text)) in TURN_CLASSES
    if parsed.call is None and parsed.lenient is not None:
        assert parsed.fault in ("wrapped", "json_invalid", "envelope_invalid")
        assert parsed.lenient in MADE and parsed.lenient.name in text


WHOLE = st.sampled_from(
    [BARE, JSON_CALL, JSON_CALL.replace('"', "'"), JSON_CALL.replace("9", "None"), f"{JSON_CALL[:-1]},}}"]
)


@given(st.sampled_from(list(PROTOCOLS)), WHOLE, WHOLE, st.text(" a\n.,`']}"))
def test_of_several_calls_none_is_credited(wire: str, first: str, second: str, between: str) -> None:
    text = said(wire, f"{first}{between}{second}")
    assert turn_class(wire, text) == "multiple_calls" and parse(wire, text).lenient is None


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_a_legal_call_is_parsed_once_and_not_searched(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(text: str) -> None:
        raise AssertionError("a legal call was searched")

    monkeypatch.setattr(stray, "scan", never)
    assert parse(wire, PROTOCOLS[wire].render_call(CALL)).call == CALL
    with pytest.raises(AssertionError):
        parse(wire, said(wire, "x"))


HOSTILE = {
    "braces": "{", "brackets": "[", "closing": "}", "quotes": '"', "apostrophes": "'", "backslashes": "\\",
    "names": '{"name":', "python": "{'a':", "objects": "{'a': 1}, ", "a list in it": '{"a":[', "calls": JSON_CALL,
    "quoted calls": JSON_CALL.replace('"', "'"), "cut calls": JSON_CALL[:-2], "opened": '{"type":"tool_call","args":{',
    "tags": "<tool_call>", "tags, open": "<tool_call>{", "tags, spaces": "<tool_call> ", "thinking": "<think>",
    "python tag": "<|python_tag|>read_file", "separators": "[TOOL_CALLS] x", "functions": "<function=read_file>",
    "dots": "<|python_tag|>a.b", "to": "<|channel|>x to=a", "escaped quotes": '{"\\', "open strings": '{"a',
    "open python": "{'a", "both": "{\"a': '", "words": "{a b ", "colons": "{a:", "commas": '{"a":1,', "spaces": " ",
    "lines": "\n", "unicode": "é{", "final": '{"type":"final",', "minus": "-", "digits": "1", "lists": f"[{BARE},",
}  # fmt: skip
AROUND = {
    "alone": "{}",
    "in a string": '{{"name":"f","args":"{}',
    "in Python": "{{'name':'f','args':'{}'}}",
    "in a call": '{{"name":"f","args":{}}}',
    "in tags": "<tool_call>{}</tool_call>",
}


def seconds(wire: str, text: str) -> float:
    """Processor time of the whole verdict on a reply, the best of two."""
    best = 1e9
    for _ in range(2):
        started = time.process_time()
        parsed = parse(wire, text)
        judge(parsed, REGISTRY, truncated=False, any_call=True)
        lenient_ok(parsed, REGISTRY)
        best = min(best, time.process_time() - started)
    return best


def check_growth(wire: str, around: str) -> None:
    for name, unit in HOSTILE.items():
        short, long = (said(wire, AROUND[around].format(unit * (size // len(unit)))) for size in (20_000, 200_000))
        assert seconds(wire, long) <= 15 * seconds(wire, short) + 0.05, name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("wire", PROTOCOLS)
def test_ten_times_the_text_costs_at_most_fifteen_times_as_much(wire: str) -> None:
    check_growth(wire, "alone")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("around", [name for name in AROUND if name != "alone"])
@pytest.mark.parametrize("wire", PROTOCOLS)
def test_so_it_does_inside_of_a_call(wire: str, around: str) -> None:
    check_growth(wire, around)


@pytest.mark.timeout(600)
def test_every_case_repeated_costs_as_much_as_it_is_long() -> None:
    cases = [json.loads(line)["text"] for line in FIXTURE.read_text().splitlines()]
    for wire in PROTOCOLS:
        for text in [*LEAKS.values(), *cases]:
            short, long = (said(wire, (text + " ") * count) for count in (100, 1_000))
            assert seconds(wire, long) <= 15 * seconds(wire, short) + 0.05, text


@pytest.mark.timeout(600)
def test_a_megabyte_of_braces_is_judged() -> None:
    for unit in ("{", "{'a':", '{"name":', "}"):
        assert turn_class("json", unit * (1_000_000 // len(unit))) == "no_call"
    tracemalloc.start()
    scan('{"a":' + "{" * 300_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
