"""Tool lists as other agents send them: each dialect by its own rules, an odd tool is named, the others are judged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_agent.data.inventory import inventory
from repo_agent.errors import UserError
from repo_agent.messages import ToolCall
from repo_agent.protocols import PROTOCOLS
from repo_agent.record.importers import import_logs
from repo_agent.tools.registry import Registry

READ = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
GOOD = {"type": "function", "function": {"name": "read_file", "description": "Read a file.", "parameters": READ}}
TUPLE = {"properties": {"points": {"type": "array", "items": [{"type": "number"}, {"type": "string"}]}}}
BOUND = {"properties": {"n": {"type": "integer", "minimum": 5, "exclusiveMinimum": True}}}


def function(parameters: Any, name: str = "odd") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "D", "parameters": parameters}}


def classes(parameters: Any, *calls: dict[str, Any]) -> list[str]:
    registry = Registry.from_openai([GOOD, function(parameters)])
    faults = [registry.check(ToolCall("odd", args)) for args in calls]
    assert registry.check(ToolCall("read_file", {"path": "a"})) is None
    assert (registry.check(ToolCall("read_file", {"path": 1})) or faults[0]).turn_class == "wrong_type"
    return [fault.turn_class if fault else "ok" for fault in faults]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"type": "web_search"}, "web_search"),
        ({"type": "custom", "custom": {"name": "odd", "format": {"type": "text"}}}, "custom"),
        ({"type": "function", "function": "odd"}, "function"),
        (function({"type": "nonsense"}), "nonsense"),
        (function({"properties": {"s": {"type": "number", "required": True}}}), "array"),
        (function(TUPLE), "items"),
        (function(BOUND), "number"),
        (function({"$ref": "#/$defs/none"}), "leads nowhere"),
        (function({"$ref": "http://127.0.0.1:9/x.json"}), "leads nowhere"),
        (function(["path"]), "object"),
        (function({"$schema": 5}), "not a URL"),
        (function({"$schema": ["x"]}), "not a URL"),
        (function({"$schema": "http://["}), "not a URL"),
    ],
)
def test_an_odd_tool_is_named_and_the_others_are_judged(entry: dict[str, Any], why: str) -> None:
    registry = Registry.from_openai([entry, GOOD])
    (name, said), *others = registry.unjudged.items()
    assert not others and (why in said or why == "items")
    fault = registry.check(ToolCall(name, {"anything": 1}))
    assert fault and fault.turn_class == "unjudged"
    assert registry.check(ToolCall("read_file", {"path": "a"})) is None
    assert (registry.check(ToolCall("read_file", {})) or fault).turn_class == "missing_arg"
    assert registry.schemas() == [entry, GOOD]


def test_without_parameters_a_tool_takes_no_arguments() -> None:
    for entry in (function(None), {"type": "function", "function": {"name": "odd"}}, {"name": "odd"}):
        registry = Registry.from_openai([entry])
        assert registry.check(ToolCall("odd", {})) is None
        fault = registry.check(ToolCall("odd", {"x": 1}))
        assert fault and fault.turn_class == "unexpected_arg"


def test_replies_are_constrained_to_the_arguments_that_a_tool_names() -> None:
    schema = PROTOCOLS["json"].schema(Registry.from_openai([GOOD]))
    assert schema and schema["anyOf"][0]["properties"]["args"] == {**READ, "additionalProperties": False}


def test_draft_3_says_of_each_argument_whether_it_is_required() -> None:
    draft, needed = {"$schema": "http://json-schema.org/draft-03/schema#"}, {"type": "string", "required": True}
    parameters = {**draft, "properties": {"a": needed, "b": needed, "c": {"type": "any"}}}
    calls = {"a": "x"}, {"a": "x", "b": "y"}, {"a": 1, "b": "y"}
    assert classes(parameters, *calls) == ["missing_arg", "ok", "wrong_type"]
    fault = Registry.from_openai([function(parameters)]).check(ToolCall("odd", {"a": "x"}))
    assert fault and fault.message == "odd needs b"
    assert "odd" not in Registry.from_openai([function({**draft, "required": True})]).unjudged


def test_a_schema_is_read_by_its_own_dialect() -> None:
    seven, four = "http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-04/schema#"
    assert classes({"$schema": seven, **TUPLE}, {"points": [1, "a"]}, {"points": ["a"]}) == ["ok", "wrong_type"]
    assert classes({"$schema": four, **BOUND}, {"n": 6}, {"n": 5}, {"m": 5}) == ["ok", "bad_value", "unexpected_arg"]
    assert classes({"$schema": seven, "$ref": "#/definitions/a", "definitions": {"a": READ}}, {"path": "a"}) == ["ok"]


A, B = {"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}
PARTS: dict[str, dict[str, Any]] = {
    "$ref": {"$ref": "#/$defs/a", "properties": {"b": {"type": "integer"}}, "$defs": {"a": A}},
    "allOf": {"allOf": [A, B]},
    "anyOf": {"anyOf": [A, B], "properties": {"b": {}}},
    "oneOf": {"oneOf": [{**A, "required": ["a"]}, {"required": ["z"]}], "properties": {"b": {"type": "integer"}}},
    "if": {"if": {"required": ["a"]}, "then": A, "properties": {"b": {"type": "integer"}}},
}


@pytest.mark.parametrize("name", PARTS)
def test_arguments_that_other_parts_of_a_schema_name_are_expected(name: str) -> None:
    found = classes(PARTS[name], {"a": 1, "b": 2}, {"a": 1, "b": 2, "x": 3}, {"a": "1", "b": 2})
    assert found[:2] == ["ok", "unexpected_arg"] and found[2] in ("wrong_type", "bad_value")


@pytest.mark.parametrize("word", ["additionalProperties", "unevaluatedProperties"])
def test_a_schema_that_says_so_takes_other_arguments(word: str) -> None:
    assert classes({**PARTS["allOf"], word: True}, {"a": 1, "b": 2, "x": 3}) == ["ok"]
    assert classes({**READ, word: {"type": "integer"}}, {"path": "a", "x": 3}, {"path": "a", "x": "3"})[0] == "ok"


Stock: Any = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)
LEAVES = [
    {"type": "string"}, {"type": "integer", "minimum": 1}, {"enum": ["a", 1, None]}, {"type": ["string", "null"]},
    {"type": "string", "pattern": "^a"}, {"type": "array", "items": {"type": "integer"}, "maxItems": 2}, {"const": 1},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"$ref": "#/$defs/n"}, {},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, {"type": "number", "exclusiveMaximum": 3},
]  # fmt: skip
NAMES, VALUES = ["a", "b", "c"], ["a", "bb", "", 1, 0, 5.0, 2.5, True, None, [1], ["a"], [1, 2, 3], {"a": "x"}, {}]


def made(random: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema of a tool and a call of it, valid in about half of the cases."""

    def part(depth: int = 0) -> dict[str, Any]:
        names = random.sample(NAMES, random.randint(0, 3))
        schema: dict[str, Any] = {"properties": {name: random.choice(LEAVES) for name in names}}
        schema |= {"type": "object"} if random.random() < 0.7 else {}
        schema |= {"required": random.sample(names, random.randint(0, len(names)))} if random.random() < 0.4 else {}
        if depth < 2 and random.random() < 0.4:
            word = random.choice(["allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas"])
            inner = part(depth + 1)
            schema |= {
                "if": {"if": inner, "then": part(2), "else": part(2)},
                "$ref": {"$ref": "#/$defs/o"},
                "dependentSchemas": {"dependentSchemas": {"a": inner}},
            }.get(word, {word: [inner, part(2)]})
        return schema

    schema = part() | {"$defs": {"n": {"type": ["integer", "null"]}, "o": part(2)}}
    schema |= random.choice([{}, {}, {}, {"additionalProperties": True}, {"unevaluatedProperties": {"type": "string"}}])
    return schema, {name: random.choice(VALUES) for name in random.sample([*NAMES, "d"], random.randint(0, 3))}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_calls_are_valid_exactly_where_jsonschema_says_so(count: int) -> None:
    maker, valid = random.Random(count), 0
    for _ in range(count):
        schema, args = made(maker)
        closed = {"unevaluatedProperties": False, **schema}
        if "additionalProperties" in schema:
            closed.pop("unevaluatedProperties")
        expected = Stock(closed).is_valid(args)
        result = Registry.from_openai([function(schema)]).checked(ToolCall("odd", args))
        assert (result.fault is None, result.unchecked) == (expected, frozenset()), (schema, args, result)
        valid += expected
    assert 0.1 < valid / count < 0.9


ENTRIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["a", "function", "object", "#/$defs/a", "^(a+)+$"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "type function name parameters properties items $ref $defs $schema $id pattern allOf not".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.lists(ENTRIES, max_size=3))
def test_no_list_of_tools_is_fatal(entries: list[Any]) -> None:
    try:
        registry = Registry.from_openai([*entries, GOOD])
    except UserError:
        return
    assert registry.check(ToolCall("read_file", {"path": "a"})) is None
    for name in registry.specs:
        registry.check(ToolCall(name, {"a": 1}))


def test_what_is_not_judged_is_named_where_logs_come_in_and_where_they_are_counted(tmp_path: Path) -> None:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": '{"path": "a"}'}}
        for n, name in enumerate(["read_file", "odd"])
    ]
    said = [{"role": "user", "content": "U"}]
    for call in calls:
        said.append({"role": "assistant", "content": "", "tool_calls": [call]})
        said.append({"role": "tool", "tool_call_id": call["id"], "content": "x"})
    log = tmp_path / "a.jsonl"
    log.write_text(json.dumps({"messages": said, "tools": [GOOD, function(TUPLE)]}))
    result = import_logs("openai", log, tmp_path / "run")
    assert result["turns"] == {"ok": 1, "unjudged": 1} and any("odd" in problem for problem in result["problems"])
    counted = inventory([tmp_path / "run"])
    assert counted["turns"] == {"ok": 1, "unjudged": 1} and any("odd" in problem for problem in counted["problems"])
