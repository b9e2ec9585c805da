"""What a server such as vLLM is asked for beside chat completions: a grammar of exactly our spelling, and token ids."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, said
from hypothesis import given
from hypothesis import strategies as st
from test_servers import QUICK, REGISTRY, _options, ask

from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import ids_hash
from repo_agent.data.tally import Proof
from repo_agent.errors import InfraError, UserError
from repo_agent.messages import ToolCall
from repo_agent.models.grammar import gbnf
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.live import run_eval
from repo_agent.traces.read import read_trace

JSON = PROTOCOLS["json"]
SCHEMA = JSON.schema(REGISTRY)


class Reader:
    """Whether a grammar takes a text, by llguidance's own reading of the notation."""

    def __init__(self, schema: dict[str, Any]) -> None:
        from llguidance import LLMatcher, grammar_from
        from llguidance.hf import from_tokenizer

        self.tokenizer = load_tokenizer("tiny")
        self.matcher = LLMatcher(from_tokenizer(self.tokenizer), grammar_from("grammar", gbnf(schema)), log_level=0)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def takes(self, text: str) -> bool:
        matcher = self.matcher.deep_copy()
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


OWN = Reader(SCHEMA)


@given(path=st.text(), content=st.text(), most=st.integers(1, 10**6))
def test_it_takes_whatever_our_serializer_writes(path: str, content: str, most: int) -> None:
    for call in (
        ToolCall("write_file", {"rel_path": path, "content": content}),
        ToolCall("read_file", {"rel_path": path, "max_chars": most}),
    ):
        assert OWN.takes(JSON.render_call(call))
    assert OWN.takes(JSON.render_final(content))


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"final", "summary":"a space after a comma"}',
        '{ "type":"final","summary":"a space in the brackets"}',
        '{"type": "final","summary":"a space after a colon"}',
        '{"type":"final","summary":"a line\nbreak"}',
        '{"type":"final","summary":"\\u0041 is spelt as a letter"}',
        '{"type":"final","summary":"more"} ',
        '{"summary":"order","type":"final"}',
        '{"type":"tool_call","name":"list_files","args":{"rel_dir":".","max_files":0}}',
        '{"type":"tool_call","name":"list_files","args":{"rel_dir":"."}}',
        '{"type":"tool_call","name":"no_tool","args":{}}',
    ],
)
def test_it_takes_nothing_else(text: str) -> None:
    assert not OWN.takes(text)


def closed(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


KIDS = {"type": "array", "items": {"$ref": "#/$defs/node"}}
TREE = {"$defs": {"node": closed({"v": {"type": "integer"}, "kids": KIDS}, ("v",))}, "$ref": "#/$defs/node"}
SCHEMAS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "optional keys": (
        closed({"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, ("b",)),
        [{"b": 2}, {"a": 1, "b": 2}, {"b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}],
        [{}, {"a": 1}, {"a": 1, "c": 3}, {"b": 1}],
    ),
    "all optional": (
        closed({"a": {"const": 1}, "b": {"const": 2}}),
        [{}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}],
        [{"c": 1}],
    ),
    "numbers": ({"type": "number"}, [0, -1, 1.5, 1e-07, 1e16, 10**15], ["1", None, True]),
    "naturals": ({"type": "integer", "minimum": 0}, [0, 7], [-1, 1.5]),
    "arrays": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        [[True], [True, False, True]],
        [[], [True] * 4, [1]],
    ),
    "lengths": ({"type": "string", "minLength": 1, "maxLength": 3}, ["a", "äöü"], ["", "abcd"]),
    "enums": ({"enum": ["a", 'b"c', None, 1]}, ["a", 'b"c', None, 1], ["b", 2]),
    "types": ({"type": ["string", "null"]}, ["x", None], [1]),
    "either": ({"anyOf": [{"type": "boolean"}, {"const": {"a": [1]}}]}, [True, {"a": [1]}], [{"a": [2]}]),
    "anything": (closed({"x": True}), [{}, {"x": {"y": [1, {"z": None}]}}, {"x": "s"}], [{"y": 1}]),
    "open": ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"k": 1, "l": 2}], [{"k": "1"}]),
    "recursion": (TREE, [{"v": 1}, {"v": 1, "kids": [{"v": 2, "kids": []}]}], [{"kids": []}, {"v": 1, "kids": [1]}]),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_part_of_a_schema(name: str) -> None:
    schema, right, wrong = SCHEMAS[name]
    grammar = Reader(schema)
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # noqa: E731
    assert [value for value in right if not grammar.takes(dump(value))] == []
    assert [value for value in wrong if grammar.takes(dump(value))] == []


def test_what_a_grammar_cannot_say_is_said() -> None:
    for schema in ({"allOf": [{}]}, {"not": {}}, {"$ref": "https://elsewhere/x"}, {"items": False, "type": "array"}):
        with pytest.raises(InfraError, match="cannot express"):
            gbnf(schema)


# --- asking a server


def _vllm(exact: bool) -> Any:
    """A server that obeys schemas, by white space without an end where it may, and grammars only where `exact`."""

    def answer(body: dict[str, Any], seen: int) -> dict[str, Any]:
        held = body.get("structured_outputs", {})
        if "grammar" in held and exact:
            return said('{"colour":"zinnwaldite"}' if "zinnwaldite" in held["grammar"] else JSON.render_final("x"))
        schema = held.get("json") or body.get("response_format", {}).get("json_schema", {}).get("schema")
        if schema is None:
            return said("hello")
        return (
            said('{"colour":"zinnwaldite"}') if "properties" in schema else said('{"type":' + " " * 99, finish="length")
        )

    return answer


def test_a_grammar_is_preferred_and_a_reply_of_white_space_is_refused() -> None:
    with FaultServer(_vllm(exact=True)) as server:
        model = OpenAIChat("m", server.url, QUICK)
        assert asyncio.run(model.constraint(SCHEMA, model.complete)) == "grammar"
    with FaultServer(_vllm(exact=False)) as server, pytest.raises(UserError, match="white space without an end"):
        model = OpenAIChat("m", server.url, QUICK)
        asyncio.run(model.constraint(SCHEMA, model.complete))


@pytest.mark.parametrize("owner", ["vllm", "someone"])
def test_vllm_alone_is_asked_for_token_ids_and_the_trace_keeps_their_hash(tmp_path: Path, owner: str) -> None:
    def answer(body: dict[str, Any], seen: int) -> dict[str, Any]:
        ids = {"prompt_token_ids": [1, 2, 3]} if body.get("return_token_ids") else {}
        return said(JSON.render_final("done")) | ids

    with FaultServer(answer, models=[{"id": "m", "owned_by": owner}]) as server:
        run_eval(_options(tmp_path / "run", server))
    turns = read_trace(next((tmp_path / "run").glob("traces/*/*.jsonl"))).turns
    assert {turn.prompt_ids for turn in turns} == {(ids_hash([1, 2, 3]), "") if owner == "vllm" else None}


def test_ids_without_a_fingerprint_prove_equality_and_nothing_else() -> None:
    proof = Proof()
    proof.add("a", "h", "t", ("h", ""))
    proof.add("b", "h", "t", ("other", ""))
    proof.add("c", "h", "t", ("h", "another"))
    proof.add("d", "h", "t", ("other", "t"))
    assert (proof.equal, proof.other_tokenizer, proof.different, proof.first) == (1, 2, 1, "d")


def test_a_request_of_many_rollouts_reads_the_list_of_models_once() -> None:
    async def many(model: OpenAIChat) -> None:
        await asyncio.gather(*(model.complete(ask()) for _ in range(8)))

    with FaultServer(lambda body, seen: said("x"), models=[{"id": "m", "owned_by": "vllm"}]) as server:
        asyncio.run(many(OpenAIChat("m", server.url, QUICK)))
        assert all(body["return_token_ids"] for _, body, _ in server.asked)
        assert server.listed == 1
