"""Every turn class in every protocol: played through the real loop, then classed again from the trace alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.build import BuildOptions, build
from repo_agent.data.classify import classify
from repo_agent.data.dataset import read_dataset
from repo_agent.data.inventory import inventory
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall, spoken
from repo_agent.models import Completion, Request, Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.protocols.contract import contract_of
from repo_agent.tools.files import default_registry
from repo_agent.tools.verdict import TURN_CLASSES, judge, lenient_ok
from repo_agent.traces import events
from repo_agent.traces.read import read_trace
from repo_agent.traces.store import RunDir

REGISTRY = default_registry()
ARGS = {"rel_path": "src/app.py", "max_chars": 99}
TEXT = json.dumps(ARGS)
QUOTED = TEXT.replace('"', "'")


def call(wire: str, name: str = "read_file", **args: Any) -> str:
    return PROTOCOLS[wire].render_call(ToolCall(name, ARGS | args))


def hermes(inside: str) -> str:
    return f"<tool_call>\n{inside}\n</tool_call>"


def native(*calls: tuple[Any, Any], content: str = "") -> str:
    return spoken(content, [{"name": name, "arguments": arguments} for name, arguments in calls])


SHAPES: dict[str, dict[str, list[str]]] = {
    "json": {
        "no_call": ["I will read it.", "", call("json")[:-5]],
        "multiple_calls": [call("json") * 2],
        "wrapped": [f"Sure! {call('json')}", f"```json\n{call('json')}\n```"],
        "json_invalid": [call("json").replace('"', "'")],
        "envelope_invalid": [f'{{"name":"read_file","args":{TEXT}}}'],
    },
    "hermes": {
        "no_call": ["", "<tool_call>", call("hermes")[:-20], f'{{"name": "read_file", "arguments": {TEXT}'],
        "multiple_calls": [f"{call('hermes')}\n{call('hermes')}", f"{call('json')} {call('json')}"],
        "wrapped": [f"Sure! {call('hermes')}", f"{call('hermes')}\nDone.", f"```json\n{call('json')}\n```"],
        "json_invalid": [hermes(f"{{'name': 'read_file', 'arguments': {QUOTED}}}"),
                         hermes(f'{{"name": "read_file", "name": "grep", "arguments": {TEXT}}}')],
        "envelope_invalid": [hermes(f'{{"name": "read_file", "args": {TEXT}}}'), hermes('{"name": "read_file"}'),
                             f'{{"name": "read_file", "arguments": {TEXT}}}',
                             call("hermes").removesuffix("</tool_call>"),
                             hermes(f'{{"name": "read_file", "arguments": {json.dumps(TEXT)}}}'), call("json")],
    },
    "native": {
        "no_call": [native(), native(content="<tool_call>\n{")],
        "multiple_calls": [native(("read_file", TEXT), ("grep", "{}")), native(content=call("hermes") * 2)],
        "wrapped": [native(content=call("hermes")), native(content=f"Sure! {call('json')}")],
        "json_invalid": [native(("read_file", TEXT[:-4])), native(("read_file", QUOTED)),
                         native(("read_file", '{"a": NaN}'))],
        "envelope_invalid": [native(("read_file", "[1]")), native((None, TEXT)), native(("", TEXT)),
                             native(content=call("json"))],
    },
}  # fmt: skip
"""What differs from protocol to protocol: class → replies that get it."""


def table(wire: str) -> list[tuple[str, str]]:
    """(class, reply) for every class of a turn but infra_error; before `final` and after `early_final` a call ran."""
    protocol = PROTOCOLS[wire]
    own = [(name, text) for name, texts in SHAPES[wire].items() for text in texts]
    return [
        ("early_final", protocol.render_final("done")),
        *own,
        ("truncated", call(wire)),
        ("unknown_tool", call(wire, "cat")),
        ("missing_arg", protocol.render_call(ToolCall("read_file", {"rel_path": "src/app.py"}))),
        ("unexpected_arg", call(wire, encoding="utf-8")),
        ("wrong_type", call(wire, max_chars="99")),
        ("bad_value", call(wire, rel_path="../x")),
        ("exec_error", call(wire, rel_path="none.py")),
        ("ok", call(wire)),
        ("final", protocol.render_final("done")),
    ]


class Said(Scripted):
    """Cuts the replies at the places given, and calls those with calls raw_unknown, as a server would."""

    def __init__(self, replies: list[str], cut: set[int]) -> None:
        super().__init__(replies)
        self.cut, self.requests = cut, list[Request]()

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        answer = await super().complete(request)
        finish = "length" if len(self.requests) - 1 in self.cut else "stop"
        return Completion(answer.text, finish, raw_unknown=request.tools is not None)


def played(wire: str, rows: list[tuple[str, str]], tmp_path: Path) -> tuple[Path, Said]:
    root, protocol = tmp_path / "workspace", PROTOCOLS[wire]
    (root / "src").mkdir(parents=True)
    (root / "src/app.py").write_text("x = 1\n")
    spec = AgentSpec(REGISTRY, protocol, Limits(max_steps=len(rows), max_bad_turns=99, tests="never"))
    writer = RunDir.open(tmp_path / "run", {"train": ["t"], "held_out": []}).claim("t", 0)
    assert writer is not None
    writer.emit(events.RunStart(task="t", group="t", task_hash="0", suite="s", rollout=0, arm="a", model="m", seed=0,
                                protocol=wire, system=spec.system, tools=REGISTRY.schemas(),
                                sampling={}, isolation="none"))  # fmt: skip
    model = Said([text for _, text in rows], {place for place, (name, _) in enumerate(rows) if name == "truncated"})

    async def no_tests(when: events.When) -> events.Tests:
        raise AssertionError("never asked for")

    rollout = Rollout(model, spec, root, no_tests, writer.emit, Sampling(), 0)
    ended = asyncio.run(rollout.run("read it"))
    writer.emit(
        events.RunEnd(ended=ended, passed=True, steps=rollout.steps, prompt_tokens=0, completion_tokens=0, seconds=0)
    )
    return writer.commit(), model


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_every_class_is_reached_and_reads_the_same_from_the_trace(wire: str, tmp_path: Path) -> None:
    rows = table(wire)
    expected = [name for name, _ in rows]
    assert set(expected) == {*TURN_CLASSES} - {"infra_error", "unjudged"}
    path, model = played(wire, rows, tmp_path)
    trace = read_trace(path)
    assert [turn.turn_class for turn in trace.turns] == expected
    assert [verdict.turn_class for verdict in classify(trace, REGISTRY)] == expected
    # What the trace rebuilds is what was sent, and each prompt goes on from the one before.
    assert [turn.context for turn in trace.turns] == [request.messages for request in model.requests]
    for earlier, later in zip(model.requests, model.requests[1:], strict=False):
        assert later.messages[: len(earlier.messages)] == earlier.messages
    assert {request.tools is not None for request in model.requests} == {wire == "native"}
    assert inventory([path])["raw_unknown"] == (len(rows) if wire == "native" else 0)


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_a_call_without_its_result_is_ours(wire: str, tmp_path: Path) -> None:
    path, _ = played(wire, [("ok", call(wire))], tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"kind":"tool_result"' not in line and "run_end" not in line]
    path.write_text("".join(kept).replace('"turn_class":"ok"', '"turn_class":"unknown_tool"'))
    assert [verdict.turn_class for verdict in classify(read_trace(path), REGISTRY)] == ["infra_error"]


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_lenient_finds_the_one_call_that_strict_refused(wire: str) -> None:
    for name in ("wrapped", "json_invalid"):
        parsed = PROTOCOLS[wire].parse(SHAPES[wire][name][0])
        cut_off = wire == "native" and name == "json_invalid"
        assert parsed.call is None and lenient_ok(parsed, REGISTRY) is not cut_off
    if wire == "native":
        assert lenient_ok(PROTOCOLS[wire].parse(native(("read_file", QUOTED))), REGISTRY) is False


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.mark.parametrize("wire", PROTOCOLS)
@given(st.text(min_size=1), st.dictionaries(st.text(), _values))
def test_a_rendered_call_parses_back(wire: str, name: str, args: dict[str, Any]) -> None:
    protocol, said = PROTOCOLS[wire], ToolCall(name, args)
    text = protocol.render_call(said)
    assert protocol.parse(text).call == said
    assert protocol.reply(text).tool_calls in ((), (said,))


@pytest.mark.parametrize("wire", PROTOCOLS)
@given(
    st.text()
    | st.builds(
        spoken, st.text(), st.lists(st.dictionaries(st.sampled_from(["name", "arguments"]), _values), max_size=2)
    )
)
def test_any_text_gets_a_class_and_a_place_in_history(wire: str, text: str) -> None:
    protocol = PROTOCOLS[wire]
    verdict = judge(protocol.parse(text), REGISTRY, truncated=False, any_call=True)
    assert (verdict.turn_class or "ok") in TURN_CLASSES
    assert protocol.observe(protocol.reply(text), "x")


@pytest.mark.parametrize("wire", ["hermes", "native"])
def test_a_final_is_any_plain_text_or_the_object_of_the_json_protocol(wire: str) -> None:
    def final(text: str) -> Any:
        return PROTOCOLS[wire].parse(text if wire == "hermes" else spoken(text, [])).final

    assert final(" The sum was off by one: {x} became {y}.\n")["summary"] == "The sum was off by one: {x} became {y}."
    assert final('{"type":"final","summary":"ok","changes":[]}') == {"type": "final", "summary": "ok", "changes": []}
    for text in ('{"type":"final"}', '{"a": 1}', "[1, 2]", "{} is returned now", "use <tool_call> for it"):
        assert final(text)["summary"] == text


def test_text_beside_one_native_call_is_legal() -> None:
    assert PROTOCOLS["native"].parse(native(("read_file", TEXT), content="Let me look.")).call == ToolCall(
        "read_file", ARGS
    )


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_a_dataset_keeps_the_protocol_it_was_played_in(wire: str, tmp_path: Path, tiny_base: Path) -> None:
    look = PROTOCOLS[wire].render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 5}))
    rows = [
        ("ok", look),
        ("ok", call(wire)),
        ("wrapped", SHAPES[wire]["wrapped"][0]),
        ("final", PROTOCOLS[wire].render_final("done")),
    ]
    path, _ = played(wire, rows, tmp_path)
    made = build(BuildOptions([path.parents[2]], tokenizer=str(tiny_base)), tmp_path / "data")
    assert made["rows"] == inventory([path])["kept"] == 3
    data = read_dataset(tmp_path / "data")
    assert data.record["contract"] == contract_of(REGISTRY, wire).hash and data.record["protocol"] == wire
    targets = [turn.reply for found in data.trajectories() for turn in found.kept]
    assert [bool(target.tool_calls) for target in targets] == ([True, True, False] if wire == "native" else [False] * 3)
    options = BuildOptions([path], no_split=True, rerender=True, tokenizer=str(tiny_base))
    other = build(options, tmp_path / "ours")
    (found,) = read_dataset(tmp_path / "ours").trajectories()
    first, second, last = found.kept
    assert other["rows"] == 3 and first.reply.content == PROTOCOLS["json"].render_call(
        ToolCall("list_files", {"rel_dir": ".", "max_files": 5})
    )
    assert found.messages[second.at - 1].content.startswith("[tool_result] src")
    assert json.loads(last.reply.content)["summary"] == "done"


def test_hermes_is_word_for_word_what_the_template_of_qwen_prints() -> None:
    folder = SHARED / "qwen2.5-7b-instruct"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    tokenizer, ours = load_tokenizer(str(folder)), PROTOCOLS["hermes"]
    bare = ours.describe(REGISTRY).split("\n\n# Tools")[0]
    said = ToolCall("write_file", {"rel_path": "a.py", "content": 'x = "é\\n"\n'})
    user = Message("user", "GOAL:\nmend it")
    beside = [Message("system", bare), user, Message("assistant", "", (said,)), Message("tool", "wrote a.py")]
    text = ours.render_call(said)
    inside = [
        Message("system", ours.describe(REGISTRY)),
        user,
        ours.reply(text),
        *ours.observe(ours.reply(text), "wrote a.py"),
    ]
    assert Renderer(tokenizer, REGISTRY.schemas()).prompt_text(beside) == Renderer(tokenizer).prompt_text(inside)


def test_the_oracle_plays_in_every_protocol(tmp_path: Path) -> None:
    from repo_agent.rollout.oracle import oracle
    from repo_agent.tasks.micro import micro_suite

    tasks = micro_suite(0).tasks
    for wire, protocol in PROTOCOLS.items():
        for seed in range(40):
            texts = list(oracle(tasks[seed % 5], protocol, seed)._replies)
            parsed = [protocol.parse(text) for text in texts]
            assert parsed[-1].final and not any(turn.final for turn in parsed[:-1]), (wire, texts)


def test_an_unknown_protocol_is_refused_with_all_names() -> None:
    from repo_agent.protocols import protocol_named

    with pytest.raises(UserError, match="json, hermes, native"):
        protocol_named("xml")
