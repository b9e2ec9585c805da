"""AgentSpec: a prompt that follows the settings, the notation of arguments, and what a model was shown."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agent import FINAL, JSON, READ, Play

from repo_agent.agent.seen import Seen
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import UserError
from repo_agent.messages import ToolCall
from repo_agent.protocols import PROTOCOLS
from repo_agent.protocols.contract import Contract
from repo_agent.rollout.oracle import playable
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry
from repo_agent.tools.notation import descriptions, signature
from repo_agent.tools.registry import Registry
from repo_agent.traces import events

# --- the prompt


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_the_prompt_follows_the_settings(wire: str) -> None:
    def prompt(**limits: Any) -> str:
        return AgentSpec(default_registry(), PROTOCOLS[wire], Limits(**limits)).system

    assert "Tests run by themselves after a write." in prompt()
    assert "Tests run when you finish" in prompt(tests="on_final") and "after a write" not in prompt(tests="on_final")
    assert "Tests" not in prompt(tests="never")
    own = AgentSpec(default_registry(), PROTOCOLS[wire], Limits(), "You tend a garden.").system
    assert own.startswith("You tend a garden. ") and "fix code" not in own


def test_a_contract_is_its_tools_and_protocol_and_no_prompt() -> None:
    plain = AgentSpec(default_registry(), JSON)
    others = [
        AgentSpec(default_registry(), JSON, Limits(max_steps=3)),
        AgentSpec(default_registry(), JSON, intro="You tend a garden."),
    ]
    for other in others:
        assert other.contract.hash == plain.contract.hash and other.soft_hash != plain.soft_hash
    assert AgentSpec(default_registry(), PROTOCOLS["hermes"]).contract.hash != plain.contract.hash
    fewer = Registry(list(default_registry().specs.values())[:3])
    assert AgentSpec(fewer, JSON).contract.hash != plain.contract.hash
    assert plain.contract.hash == Contract(plain.registry.schemas(), "json").hash


# --- the notation

WORDS = st.sampled_from(["a", "b", "name", "rel_path", "größe"])
STRINGS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "format": st.sampled_from(["relative-path", "regex", "date"]),
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(4, 9),
        "pattern": st.sampled_from(["^a", "b$"]),
    },
)
NUMBERS = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])},
    optional={"minimum": st.integers(0, 3), "maximum": st.integers(4, 9)},
)
ENUMS = st.lists(st.sampled_from(["x", "y", 1, None, True]), min_size=1, max_size=3, unique_by=repr).map(
    lambda v: {"enum": v}
)
LEAVES = STRINGS | NUMBERS | ENUMS | st.just({"type": "boolean"}) | st.just({}) | st.just({"type": "object"})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def make(properties: dict[str, Any], required: list[str], more: bool | None) -> dict[str, Any]:
        made = {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in required],
        }
        return made if more is None else {**made, "additionalProperties": more}

    return st.builds(
        make,
        st.dictionaries(WORDS, inner, min_size=1, max_size=3),
        st.lists(WORDS),
        st.sampled_from([None, False, True]),
    )


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(1, 2)})
    return objects(inner) | arrays | st.lists(inner, min_size=2, max_size=2).map(lambda two: {"anyOf": two})


TOOL = objects(st.recursive(LEAVES, schemas, max_leaves=4))
ODD_KEYWORDS = [
    "multipleOf",
    "exclusiveMinimum",
    "not",
    "dependentRequired",
    "uniqueItems",
    "propertyNames",
    "x-unknown",
]


def meaning(schema: Any) -> Any:
    """What two schemas must share to be judged by the same rules."""
    if isinstance(schema, dict):
        kept = {key: meaning(value) for key, value in schema.items() if key not in ("title", "description", "default")}
        return {key: sorted(value) if key == "required" else value for key, value in kept.items()}
    return [meaning(entry) for entry in schema] if isinstance(schema, list) else schema


@settings(max_examples=300, deadline=None)
@given(TOOL, TOOL)
def test_tools_that_are_judged_otherwise_are_printed_otherwise(one: dict[str, Any], other: dict[str, Any]) -> None:
    closed = [{**schema, "additionalProperties": schema.get("additionalProperties", False)} for schema in (one, other)]
    if _normal(closed[0]) != _normal(closed[1]):
        assert signature("f", one) != signature("f", other)


def _normal(schema: Any, top: bool = True) -> Any:
    """`meaning`, and an object that does not say so takes others, but for the tool itself."""
    if isinstance(schema, list):
        return [_normal(entry, False) for entry in schema]
    if not isinstance(schema, dict):
        return repr(schema)
    made = {key: _normal(value, False) for key, value in schema.items()}
    if "properties" in schema:
        made["properties"] = {name: _normal(entry, False) for name, entry in schema["properties"].items()}
        made["additionalProperties"] = repr(schema.get("additionalProperties", not top))
        made["required"] = sorted(map(repr, schema.get("required", [])))
        made["order"] = list(schema["properties"])
    return made


@settings(max_examples=100, deadline=None)
@given(TOOL, st.sampled_from(ODD_KEYWORDS), st.booleans())
def test_what_the_notation_cannot_say_is_printed_as_json(schema: dict[str, Any], keyword: str, inside: bool) -> None:
    odd = copy.deepcopy(schema)
    (next(iter(odd["properties"].values())) if inside else odd)[keyword] = 3
    assert f'"{keyword}": 3' in signature("f", odd)


def test_the_notation_is_short_to_read() -> None:
    lines = AgentSpec(default_registry(), JSON).system.splitlines()
    assert "read_file(rel_path: string (relative path), max_chars: integer >= 1) - Read at most" in "\n".join(lines)
    spec = {
        "type": "object",
        "$defs": {"At": {"type": "object", "properties": {"line": {"type": "integer"}}, "required": ["line"]}},
        "properties": {
            "level": {"enum": ["low", "high"], "description": "How\n  much."},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
            "at": {"$ref": "#/$defs/At"},
        },
        "required": ["level", "at"],
    }
    assert signature("f", spec) == 'f(level: "low" | "high", tags?: [string], at: {line: integer, …})'
    assert descriptions(spec) == ["level: How much."]


def test_a_schema_that_refers_to_itself_is_printed_as_json() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert signature("f", tree) == 'f({"type": "object", "properties": {"next": {"$ref": "#"}}})'


# --- what was shown

SHOWN = "import os\n\ndef f(x):\n    return x\n"


def test_lines_of_reads_greps_goals_and_own_writes_were_shown() -> None:
    seen = Seen()
    seen.show("the folder src/ holds src/a.py")
    assert seen.unseen("src/a.py", SHOWN) == ["import os", "def f(x):", "    return x"]
    seen.show("[tool_result] import os\nsrc/a.py:3:def f(x):")
    assert seen.unseen("src/a.py", SHOWN) == ["import os", "    return x"]  # the first line is behind the mark
    seen.show(SHOWN)
    assert seen.unseen("src/a.py", SHOWN) == []
    seen.wrote("y = 2\n")
    assert seen.unseen("src/a.py", SHOWN + "y = 2\n\n") == [] == seen.unseen("src/a.py", None)


@pytest.mark.parametrize(
    ("path", "known"),
    [("a.py", True), ("src/a.py", True), ("src/new.py", True), ("lib/a.py", False), ("deep/in/x.py", False)],
)
def test_a_path_counts_as_shown_when_it_or_its_folder_was(path: str, known: bool) -> None:
    seen = Seen()
    seen.show("files: src/a.py")
    assert (seen.unseen(path, None) == []) == known
    seen.found(["deep/in/x.py"])
    assert seen.unseen("deep/in/x.py", None) == []


def write(content: str) -> str:
    return JSON.render_call(ToolCall("write_file", {"rel_path": "a.py", "content": content}))


@pytest.mark.parametrize("look", [True, False])
def test_the_loop_records_what_was_written_unseen(tmp_path: Path, look: bool) -> None:
    play = Play(
        tmp_path,
        [
            *([READ] if look else [JSON.render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 9}))]),
            write("x = 2\n"),
            write("x = 3\n"),
            FINAL,
        ],
    )
    results = [event for event in play.log if isinstance(event, events.ToolResultEvent)]
    assert [result.unseen for result in results] == [None, [] if look else ["x = 1"], []]


def test_the_oracle_refuses_what_it_could_not_see() -> None:
    def task(size: int) -> Task:
        return Task("long", "mend it", {"a.py": "x" * size, "test_a.py": ""}, ("test_a.py",), fix={"a.py": "y"})

    spec = AgentSpec(default_registry(), JSON)
    playable(spec, [task(12_000)])
    with pytest.raises(UserError, match="16,000 characters"):
        playable(spec, [task(16_001)])
    playable(AgentSpec(default_registry(), JSON, Limits(read_chars=20_000)), [task(16_001)])
