"""Calls against schemas that anyone wrote: the quick check agrees with jsonschema, nothing is slow, fatal or fetched,
and what is not checked is told and never the model's fault."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_agent.messages import ToolCall
from repo_agent.protocols import PROTOCOLS
from repo_agent.tools.certain import certain
from repo_agent.tools.files import default_registry
from repo_agent.tools.patterns import pattern_fault, steps
from repo_agent.tools.registry import Checked, Registry
from repo_agent.tools.schema import FORMATS
from repo_agent.tools.verdict import judge

KEYWORDS = frozenset(jsonschema.Draft202012Validator.VALIDATORS)
Stock: Any = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)


def checked(schema: dict[str, Any], args: dict[str, Any]) -> Checked:
    registry = Registry.from_openai([{"name": "f", "parameters": {"additionalProperties": True, **schema}}])
    return registry.checked(ToolCall("f", args))


NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.sampled_from([0, 1, 2, -1, 1.0, 2.5, 5.0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "a", "bb", "x-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array"])


def plain(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
            "enum": st.lists(st.sampled_from(["a", "bb", 1, None, True]), min_size=1, max_size=3),
            "const": st.sampled_from(["a", 1, 1.0, False]),
            "minimum": NUMBERS, "exclusiveMaximum": NUMBERS, "maxLength": st.integers(0, 2), "minLength": st.just(1),
            "title": st.text(max_size=2), "format": st.sampled_from(["date", "email"]), "strict": st.booleans(),
            **more,
        },
    )  # fmt: skip


SCHEMAS = st.recursive(
    plain(),
    lambda inner: plain(
        properties=st.dictionaries(NAMES, inner, max_size=3),
        required=st.lists(NAMES, max_size=2, unique=True),
        additionalProperties=st.booleans() | inner,
        items=inner,
        anyOf=st.lists(inner, min_size=1, max_size=2),
        allOf=st.lists(inner, min_size=1, max_size=2),
        oneOf=st.lists(inner, min_size=1, max_size=2),
        uniqueItems=st.booleans(),
        pattern=st.sampled_from(["^a", "^[a-z]+$", "x|b"]),
        minItems=st.just(1),
        contains=inner,
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(SCHEMAS, VALUES)
def test_the_quick_check_says_yes_only_where_jsonschema_does(schema: dict[str, Any], value: Any) -> None:
    quick = certain(schema, KEYWORDS, FORMATS)
    if quick and quick(value):
        assert Stock(schema).is_valid(value)


@settings(max_examples=300)
@given(SCHEMAS, st.dictionaries(NAMES, VALUES, max_size=3))
def test_the_whole_check_is_that_of_jsonschema(schema: dict[str, Any], args: dict[str, Any]) -> None:
    result = checked(schema, args)
    assert not result.unchecked
    assert (result.fault is None) == Stock({"additionalProperties": True, **schema}).is_valid(args)


ONE_BY_ONE: list[dict[str, Any]] = [
    *({"type": name} for name in ("string", "integer", "number", "boolean", "null", "object", "array")),
    {"type": ["integer", "null"]}, {"enum": ["a", "bb"]}, {"const": "a"}, {"minimum": 1}, {"maximum": 1},
    {"exclusiveMinimum": 1}, {"exclusiveMaximum": 1}, {"minLength": 1}, {"maxLength": 1}, {"minItems": 1},
    {"maxItems": 1}, {"items": {"type": "integer"}}, {"required": ["a"]}, {"additionalProperties": False},
    {"properties": {"a": {"type": "integer"}}}, {"properties": {"a": {}}, "additionalProperties": False},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"format": "date"}, {"title": "x", "strict": True}, {},
    {"$ref": "#/$defs/i", "$defs": {"i": {"type": "integer"}}}, {"type": "integer", "minimum": 1, "maximum": 2},
]  # fmt: skip
EVERY: list[Any] = [None, True, False, 0, 1, 2, -1, 10**30, 1.0, 0.5, 1.5, -0.0, "", "a", "bb", [], [1], [True],
                    [1, "a"], {}, {"a": 1}, {"a": True}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 1}]  # fmt: skip


@pytest.mark.parametrize("schema", ONE_BY_ONE, ids=str)
def test_each_keyword_of_the_quick_check_is_that_of_jsonschema(schema: dict[str, Any]) -> None:
    quick = certain(schema, KEYWORDS, FORMATS)
    assert quick
    assert [value for value in EVERY if quick(value)] == [value for value in EVERY if Stock(schema).is_valid(value)]


def test_ordinary_schemas_have_a_quick_check_that_is_not_idle() -> None:
    calls = [
        ("read_file", {"rel_path": "a.py", "max_chars": 9}),
        ("grep", {"pattern": "a|b", "rel_dir": ".", "max_hits": 1}),
    ]
    for name, args in calls:
        quick = certain(default_registry().specs[name].parameters, KEYWORDS, FORMATS)
        assert quick and quick(args)
        for key in args:
            assert not quick({**args, key: None}) and not quick({k: v for k, v in args.items() if k != key})
        assert not quick({**args, "more": 1})
    inside = {"next": {"anyOf": [{"type": "null"}]}, "v": {"$ref": "#/$defs/n"}}
    nested = {
        "$defs": {"n": {"type": "object", "properties": inside}},
        "properties": {"head": {"$ref": "#/$defs/n"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
    }
    quick = certain(nested, KEYWORDS, FORMATS)
    assert quick and quick({"head": {"v": {"v": {"next": None}}}, "tags": ["a"]})
    assert not quick({"head": {"v": {"v": {"next": 1}}}}) and not quick({"tags": ["c"]})


def refs(levels: int) -> dict[str, Any]:
    return functools.reduce(lambda inside, _: {"a": inside}, range(levels), {"z": 1})


TWO_WAYS = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
    {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]},
    {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a", "b"]}]}}}  # fmt: skip
DEEP = functools.reduce(lambda inside, _: {"properties": {"a": inside}}, range(5000), {"type": "string"})
ODD = {
    "exponential pattern": ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 40 + "!"}, "pattern"),
    "alternatives": ({"properties": {"a": {"pattern": "^(a|a)*$"}}}, {"a": "a" * 40 + "!"}, "pattern"),
    "optional": ({"properties": {"a": {"pattern": "a?" * 40 + "a" * 40}}}, {"a": "a" * 40}, "pattern"),
    "a long text": ({"properties": {"a": {"pattern": "a.*b.*c"}}}, {"a": "ab" * 20_000}, "pattern"),
    "another dialect": ({"properties": {"a": {"pattern": r"^\p{L}+$"}}}, {"a": "b"}, "pattern"),
    "a large pattern": ({"properties": {"a": {"pattern": "(" * 5000}}}, {"a": "b"}, "pattern"),
    "pattern of names": ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 40 + "!": 1}, "patternProperties"),
    "and no other": ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 40 + "!": 1},
                     "patternProperties"),
    "unevaluated": ({"allOf": [{"patternProperties": {"^(a+)+$": {}}}], "unevaluatedProperties": False},
                    {"a" * 40 + "!": 1}, "patternProperties"),
    "of names": ({"propertyNames": {"pattern": "^(a+)+$"}}, {"a" * 40 + "!": 1}, "pattern"),
    "two ways at each level": (TWO_WAYS, refs(40), "steps"),
    "another dialect inside": ({"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#",
                                                     "pattern": "^(a+)+$"}}}, {"a": "a" * 40 + "!"}, "pattern"),
    "a circle": ({"properties": {"a": {"$ref": "#/properties/a"}}}, {"a": 1}, "$ref"),
    "5,000 levels": (DEEP, {"a": 1}, "schema"),
    "too large to divide": ({"properties": {"a": {"multipleOf": 0.5}}}, {"a": 10**400}, "multipleOf"),
    "20,000 properties": ({"properties": {f"p{n}": {} for n in range(20_000)}}, {"a": 1}, "schema"),
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ODD)
def test_what_takes_too_long_is_unchecked_and_nobodys_fault(name: str) -> None:
    schema, args, unchecked = ODD[name]
    started = time.process_time()
    assert checked(schema, args) == Checked(None, frozenset({unchecked}))
    assert time.process_time() - started < 10


@pytest.mark.timeout(60)
def test_unique_items_are_told_from_many_in_linear_time() -> None:
    schema = {"properties": {"a": {"uniqueItems": True}}}
    items: list[Any] = [{"n": n, "m": [n, {}]} for n in range(20_000)]
    assert checked(schema, {"a": items}) == Checked(None)
    assert checked(schema, {"a": [*items, items[7]]}).fault
    assert checked(schema, {"a": [1, True, 0, False, "1", None, [1], [True]]}) == Checked(None)
    assert checked(schema, {"a": [1, 1.0]}).fault and checked(schema, {"a": [{"x": 1, "y": 2}, {"y": 2, "x": 1}]}).fault


def test_a_fault_that_was_found_counts_though_something_else_is_unchecked() -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"type": "integer"}}, "required": ["c"]}
    result = checked(schema, {"a": "a" * 40, "b": "1", "c": 1})
    assert result.fault and (result.fault.turn_class, result.unchecked) == ("wrong_type", {"pattern"})
    result = checked(schema, {"a": "a" * 40, "b": "1"})
    assert result.fault and result.fault.turn_class == "missing_arg"


def test_a_schema_that_comes_again_is_made_once_and_its_order_counts() -> None:
    properties = {name: {"type": "string"} for name in "ab"}
    entry = {"name": "f", "parameters": {"type": "object", "properties": properties, "required": ["a", "b"]}}
    twin, other = json.loads(json.dumps(entry)), json.loads(json.dumps(entry))
    other["parameters"]["properties"] = dict(reversed(properties.items()))
    first, again, third = (Registry.from_openai([one]).specs["f"] for one in (entry, twin, other))
    assert first.schema is again.schema and third.schema is not first.schema
    assert list(third.parameters["properties"]) == ["b", "a"]
    twin["parameters"]["required"].clear()
    assert first.schema.check({}, lambda best, error: best or error)[0] is not None


def test_the_verdict_carries_what_was_unchecked() -> None:
    registry = Registry.from_openai([{"name": "f", "parameters": {"properties": {"a": {"pattern": "^(a+)+$"}}}}])
    text = PROTOCOLS["json"].render_call(ToolCall("f", {"a": "a" * 40}))
    verdict = judge(PROTOCOLS["json"].parse(text), registry, truncated=False, any_call=True)
    assert (verdict.turn_class, verdict.unchecked) == (None, {"pattern"})


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "integer"}')

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.json", asked
        server.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_fetched(web: tuple[str, list[str]]) -> None:
    url, asked = web
    for schema in (
        {"properties": {"a": {"$ref": url}}},
        {"$id": url, "properties": {"a": {"$ref": "other.json"}}},
        {"properties": {"a": {"$dynamicRef": url}}},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
    ):
        fault = checked(schema, {"a": "x"}).fault
        assert fault and fault.turn_class == "unjudged" and "leads nowhere" in fault.message
    assert asked == []


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^[a-z0-9_-]{1,64}$", "a-b_1" * 9, "A"),
        (
            r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
            "123e4567-e89b-12d3-a456-426614174000",
            "x",
        ),
        (r"^[^@\s]+@[^@\s]+\.[^@\s]+$", "somebody@mail.example.com", "a@b"),
        (r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2})?$", "2026-11-27T10:00", "2026"),
        (r"^(?:[0-9]{1,3}\.){3}[0-9]{1,3}$", "127.0.0.1", "127.0.0"),
        (r"^(GET|POST|PUT)$", "POST", "PATCH"),
        (r"^https?://\S+$", "https://example.com/" + "x" * 3000, "ftp://x"),
        (r"^[a-z]+(-[a-z]+)*$", "a-slug-of", "-"),
    ],
)
def test_ordinary_patterns_are_checked(pattern: str, good: str, bad: str) -> None:
    schema = {"properties": {"a": {"type": "string", "pattern": pattern}}}
    assert checked(schema, {"a": good}) == Checked(None)
    result = checked(schema, {"a": bad})
    assert result.fault and result.fault.turn_class == "bad_value" and not result.unchecked


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            ["a", "b", ".", "[ab]", "a*", "b+", "a?", "(", ")*", ")", "|", "(?:", "){2}", "{1,3}", "^", "$"]
        )
    ),
    st.integers(0, 200),
)
def test_what_is_affordable_ends_soon(pieces: list[str], length: int) -> None:
    """The estimate of steps is an upper bound: `re` never takes longer than a slow machine needs for so many."""
    pattern = "".join(pieces)
    if pattern_fault(pattern) or steps(pattern, length) > 3_000_000:
        return
    try:
        compiled = re.compile(pattern)
    except re.error:
        return
    started = time.process_time()
    compiled.search("a" * length + "!")
    assert time.process_time() - started < 5


@pytest.mark.timeout(60)
@pytest.mark.parametrize("items", [["a"], [1], [{"b": "c"}]])
def test_a_long_call_costs_as_much_as_it_is_long(items: list[Any]) -> None:
    schema = {"properties": {"a": {"type": "array", "items": {"type": ["string", "object"], "maxLength": 2}}}}
    seconds = []
    for length in (2_000, 20_000):
        started = time.process_time()
        for _ in range(5):
            checked(schema, {"a": items * length})
        seconds.append(time.process_time() - started)
    assert seconds[1] < 15 * seconds[0] + 0.2
