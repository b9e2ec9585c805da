"""Agents that are not ours: they call in parallel, date their system prompts and answer their users in prose between
calls. None loses a row or a point of validity by it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from repo_agent.data.build import BuildOptions, build
from repo_agent.data.inventory import inventory
from repo_agent.record.importers import import_logs
from repo_agent.traces.read import read_traces


def tool(name: str, *required: str) -> dict[str, Any]:
    properties = {key: {"type": "string"} for key in required}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "D", "parameters": parameters}}


TOOLS = [tool("read", "path"), tool("order", "number"), tool("now")]


def called(*calls: tuple[str, str]) -> dict[str, Any]:
    entries = [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": entries}


def result(n: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c{n}", "content": text}


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def imported(tmp_path: Path, *talks: dict[str, Any]) -> Path:
    log, run = tmp_path / "log.jsonl", tmp_path / "run"
    log.write_text("".join(json.dumps({"tools": TOOLS, **talk}) + "\n" for talk in talks))
    import_logs("openai", log, run, passed=True)
    return run


def built(tmp_path: Path, run: Path, **options: Any) -> list[dict[str, Any]]:
    build(BuildOptions([run], no_split=True, **options), tmp_path / "data")
    return [json.loads(line) for line in (tmp_path / "data" / "trajectories.jsonl").open()]


A, B = ("read", '{"path": "a.py"}'), ("read", '{"path": "b.py"}')
PARALLEL = [
    said("user", "What do a and b hold?"),
    called(A, B, ("now", "")),
    result(1, "text of b.py"),
    result(2, "noon"),
    result(0, "text of a.py"),
    said("assistant", "A and B."),
]


def test_parallel_calls_are_judged_each_and_trained(tmp_path: Path) -> None:
    run = imported(tmp_path, {"messages": PARALLEL})
    assert inventory([run])["turns"] == {"ok": 1, "final": 1}
    (row,) = built(tmp_path, run, exports=["chat-trajectories:openai"])
    assert [(turn["what"], turn["kept"]) for turn in row["turns"]] == [("read+read+now", True), ("final", True)]
    (sample,) = [json.loads(line) for line in (tmp_path / "data" / "chat_openai.jsonl").open()]
    assistant, *results, final = sample["messages"][1:]
    names = {call["id"]: json.loads(call["function"]["arguments"]).get("path") for call in assistant["tool_calls"]}
    answers = {names[message["tool_call_id"]]: message["content"] for message in results}
    assert answers == {"a.py": "text of a.py", "b.py": "text of b.py", None: "noon"}
    assert assistant["weight"] == final["weight"] == 1


def test_an_agent_that_asked_for_one_call_gets_several_as_a_fault(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    message = {**PARALLEL[1], "content": None}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    for asked, turn_class in ((False, "multiple_calls"), (True, "ok")):
        request = {"messages": PARALLEL[:1], "tools": TOOLS, "parallel_tool_calls": asked}
        log.write_text(json.dumps({"request": request, "response": body}) + "\n")
        made = import_logs("openai", log, tmp_path / f"run{asked}")
        assert made["turns"] == inventory([tmp_path / f"run{asked}"])["turns"] == {turn_class: 1}


@pytest.mark.parametrize(
    ("bad", "turn_class"),
    [
        (("read", "{"), "json_invalid"),
        (("read", "[]"), "envelope_invalid"),
        (("write", "{}"), "unknown_tool"),
        (("read", ""), "json_invalid"),
        (("read", "{}"), "missing_arg"),
        (("read", '{"path": 1}'), "wrong_type"),
    ],
)
def test_one_bad_call_gives_the_turn_its_class(tmp_path: Path, bad: tuple[str, str], turn_class: str) -> None:
    for place in range(3):
        calls = [A, B]
        calls.insert(place, bad)
        talk = {"messages": [said("user", "go"), called(*calls)]}
        (tmp_path / str(place)).mkdir()
        run = imported(tmp_path / str(place), talk)
        assert inventory([run])["turns"] == {turn_class: 1}
        ((trace,), _) = read_traces([run])
        assert trace.turns[0].error.startswith(f"call {place + 1} of 3: ")


def test_parallel_calls_in_our_protocol_are_turns_each_with_its_result(tmp_path: Path) -> None:
    (row,) = built(tmp_path, imported(tmp_path, {"messages": PARALLEL}), rerender=True)
    texts = [message["content"] for message in row["messages"][2:]]
    calls = [json.loads(text)["args"] for text in texts[:6:2]]
    assert calls == [{"path": "a.py"}, {"path": "b.py"}, {}]
    assert texts[1:6:2] == [f"[tool_result] {text}" for text in ("text of a.py", "text of b.py", "noon")]
    assert [turn["class"] for turn in row["turns"]] == ["ok", "ok", "ok", "final"]


def test_parallel_calls_are_shown_with_their_results(tmp_path: Path) -> None:
    from rich.console import Console

    from repo_agent.cli.view import view

    ((trace,), _) = read_traces([imported(tmp_path, {"messages": PARALLEL})])
    console = Console(width=100, record=True, file=io.StringIO())
    for part in view(trace):
        console.print(part)
    lines = [line.strip() for line in console.export_text().split("\n")]
    assert lines.index("= read(path='b.py')") + 1 == lines.index("text of b.py")
    assert lines.index("= read(path='a.py')") + 1 == lines.index("text of a.py")
    assert [line for line in lines if line.startswith("+ ")] == ["+ read(path='b.py')", "+ now()"]


def test_dated_system_prompts_are_one_dataset(tmp_path: Path) -> None:
    talks = [
        {"messages": [said("system", f"You help. Today is 2026-11-{day}."), said("user", f"task {day}"), *PARALLEL[1:]]}
        for day in range(21, 27)
    ]
    rows = built(tmp_path, imported(tmp_path, *talks))
    assert len(rows) == 6 and all(turn["kept"] for row in rows for turn in row["turns"])
    assert len({row["contract"] for row in rows}) == 1
    assert len({row["messages"][0]["content"] for row in rows}) == 6


def test_a_support_agent_answers_its_users_in_prose_between_calls(tmp_path: Path) -> None:
    talk = [
        said("system", "You are the support of a shop."),
        said("user", "Hello"),
        said("assistant", "Hello, how can I help?"),
        said("user", "Where is my order 7?"),
        called(("order", '{"number": "7"}')),
        result(0, "sent on Monday"),
        said("assistant", "It was sent on Monday."),
        said("user", "And order 8?"),
        called(("order", '{"number": "8"}')),
        result(0, "not sent"),
        said("assistant", "It has not been sent yet."),
        said("user", "Thanks"),
        said("assistant", "You are welcome."),
    ]
    run = imported(tmp_path, {"messages": talk})
    assert inventory([run])["turns"] == {"ok": 2, "final": 4}
    (row,) = built(tmp_path, run)
    assert [turn["kept"] for turn in row["turns"]] == [True] * 6


def test_a_compacted_conversation_ends_in_a_final(tmp_path: Path) -> None:
    talk = [said("user", "go"), called(A), result(0, "x"), said("assistant", "Done.")]
    log = tmp_path / "log.jsonl"
    body = {"choices": [{"index": 0, "message": talk[-1], "finish_reason": "stop"}]}
    log.write_text(json.dumps({"request": {"messages": talk[:-1], "tools": TOOLS}, "response": body}) + "\n")
    made = import_logs("openai", log, tmp_path / "run")
    assert made["turns"] == inventory([tmp_path / "run"])["turns"] == {"final": 1}
    summary = [said("user", "go"), said("assistant", '{"type":"tool_call","name":"read","args":{"path":"a"}}')]
    request = {"messages": [*summary, said("user", "[tool_result] x")]}
    end = {"role": "assistant", "content": '{"type":"final","summary":"Done."}'}
    body = {"choices": [{"index": 0, "message": end, "finish_reason": "stop"}]}
    log.write_text(json.dumps({"request": request, "response": body}) + "\n")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(TOOLS))
    assert import_logs("openai", log, tmp_path / "text", schema)["turns"] == {"final": 1}
    assert inventory([tmp_path / "text"], schema)["turns"] == {"final": 1}
