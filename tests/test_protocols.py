"""The JSON protocol: strict and lenient parsing, the whole ladder of turn classes, and its schema."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_agent.errors import UserError
from repo_agent.messages import ToolCall
from repo_agent.protocols import PROTOCOLS, protocol_named
from repo_agent.tools.files import default_registry
from repo_agent.tools.verdict import TURN_CLASSES, judge, lenient_ok, rungs

JSON = PROTOCOLS["json"]
REGISTRY = default_registry()
READ = '{"type":"tool_call","name":"read_file","args":{"rel_path":"a.py","max_chars":9}}'
GREP = r'grep","args":{"pattern":"m{4s<\\g<L","rel_dir":".","max_hits":1'
FINAL = '{"type":"final","summary":"done"}'


def turn_class(text: str, *, truncated: bool = False, any_call: bool = True) -> str:
    return judge(JSON.parse(text), REGISTRY, truncated=truncated, any_call=any_call).turn_class or "runs"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (READ, "runs"),
        (f"  {READ}\n", "runs"),
        (FINAL, "final"),
        ('{"type":"final","summary":"done","changes":[]}', "final"),
        ("", "no_call"),
        ("I would read {a} first", "no_call"),
        ("[1, 2]", "no_call"),
        (f"[{READ}]", "wrapped"),
        (f"[{READ}, {READ}]", "multiple_calls"),
        ("{'type': 'tool_call', 'name': 'a'}, {'type': 'tool_call', 'name': 'b'}", "multiple_calls"),
        ("{'name':'a','args':{{'b':1}}}", "json_invalid"),
        ('{"type":"tool_call","name":"read_file","args":{"rel_path":"a","max_chars":1e999}}', "json_invalid"),
        ('{"type":"tool_call","name":"read_file","args":{"a":' + "[" * 60 + "]" * 60 + "}}", "json_invalid"),
        ('{"type":"tool_call","name":"read_file","args":{"a":' + "[" * 9999 + "]" * 9999 + "}}", "json_invalid"),
        (READ.replace('read_file","args":{"rel_path":"a.py","max_chars":9', GREP), "bad_value"),
        (READ[:-5], "no_call"),
        (READ + READ, "multiple_calls"),
        (f"{READ}\n{FINAL}", "multiple_calls"),
        (f"Sure! {READ}", "wrapped"),
        (f"```json\n{READ}\n```", "wrapped"),
        (f"<tool_call>{READ}</tool_call>", "wrapped"),
        (f"Because of {{x}}: {READ}", "wrapped"),
        (f"{FINAL} bye", "wrapped"),
        (READ.replace('"', "'"), "json_invalid"),
        ('{"type":"tool_call","name":"write_file","args":{"rel_path":"a","content":"x\ny"}}', "json_invalid"),
        ('{"type":"tool_call","name":"read_file","args":{"rel_path":"a","max_chars":NaN}}', "json_invalid"),
        ('{"type":"tool_call","name":"x","name":"read_file","args":{}}', "json_invalid"),
        ('{"a":1}', "envelope_invalid"),
        ('{"name":"read_file","args":{}}', "envelope_invalid"),
        ('{"type":"tool_call","name":"read_file","arguments":{}}', "envelope_invalid"),
        ('{"type":"tool_call","name":"read_file","args":{},"thought":"x"}', "envelope_invalid"),
        ('{"type":"tool_call","name":"read_file","args":"{}"}', "envelope_invalid"),
        ('{"type":"final"}', "envelope_invalid"),
        ('{"type":"tool_call","name":"run_tests","args":{}}', "unknown_tool"),
        ('{"type":"tool_call","name":"list_files","args":{"rel_path":"."}}', "missing_arg"),
    ],
)
def test_turn_classes_of_replies(text: str, expected: str) -> None:
    assert turn_class(text) == expected


def test_truncation_and_an_early_final_come_before_the_text() -> None:
    assert turn_class(READ, truncated=True) == "truncated"
    assert turn_class(FINAL, any_call=False) == "early_final"


@pytest.mark.parametrize("text", [f"Sure! {READ}", READ.replace('"', "'"), f"```json\n{READ}\n```"])
def test_the_lenient_parse_finds_what_the_strict_one_refuses(text: str) -> None:
    parsed = JSON.parse(text)
    assert parsed.call is None and lenient_ok(parsed, REGISTRY)
    assert parsed.lenient == ToolCall("read_file", {"rel_path": "a.py", "max_chars": 9})


def test_the_lenient_parse_repairs_nothing() -> None:
    assert not lenient_ok(JSON.parse(READ[:-5]), REGISTRY)
    assert not lenient_ok(JSON.parse(READ + READ), REGISTRY)
    code = 'if x == "a":\n    print(\'{"type": 1}\')\n'
    raw = f'{{"type":"tool_call","name":"write_file","args":{{"rel_path":"a.py","content":{json.dumps(code)}}}}}'
    lenient = JSON.parse(f"Here: {raw}").lenient
    assert lenient and lenient.args["content"] == code


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text(min_size=1), st.dictionaries(st.text(), _json_values))
def test_a_rendered_call_parses_back(name: str, args: dict[str, Any]) -> None:
    call = ToolCall(name, args)
    assert JSON.parse(JSON.render_call(call)).call == call


@given(st.text())
def test_any_text_gets_a_class(text: str) -> None:
    assert turn_class(text) in {*TURN_CLASSES, "runs"}


@pytest.mark.parametrize("unit", ["{'a': 1}, ", "{'a':", '{"a":', "{'name': 'x'}, ", "{"])
def test_a_looping_reply_is_classed_at_once(unit: str) -> None:
    started = time.process_time()
    turn_class(unit * 3000)
    assert time.process_time() - started < 1.0


def test_the_schema_takes_what_is_valid_and_nothing_else() -> None:
    validator = jsonschema.Draft202012Validator(JSON.schema(REGISTRY))
    assert validator.is_valid(json.loads(READ)) and validator.is_valid(json.loads(FINAL))
    for bad in ('{"type":"tool_call","name":"read_file","args":{}}', '{"type":"final"}', '{"type":"x"}', "{}"):
        assert not validator.is_valid(json.loads(bad))
    for branch in JSON.schema(REGISTRY)["anyOf"]:
        assert list(branch["properties"])[:2] in (["type", "name"], ["type", "summary"])


def test_the_prompt_names_every_tool_and_argument() -> None:
    text = JSON.describe(REGISTRY)
    for spec in REGISTRY.specs.values():
        assert spec.lines() in text
    assert "run_tests" not in text


def test_rungs_rise_along_the_ladder() -> None:
    order = ["truncated", "envelope_invalid", "unknown_tool", "missing_arg", "exec_error", "ok"]
    assert [rungs(name) for name in order] == [0, 0, 1, 2, 3, 4]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match="json"):
        protocol_named("xml")
