"""Importers: what a log says becomes a trace, what it does not say stays None, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from upstream import completion, said

from repo_agent.data.inventory import inventory
from repo_agent.errors import UserError
from repo_agent.record.importers import import_logs
from repo_agent.traces.read import read_traces

READ = {
    "type": "function",
    "function": {
        "name": "read",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


def call(arguments: str, name: str = "read", n: str = "c1") -> dict[str, Any]:
    calls = [{"id": n, "type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def answer(text: str, n: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": n, "content": text}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


USER, SYSTEM = {"role": "user", "content": "fix it"}, {"role": "developer", "content": "You fix."}
DONE = {"role": "assistant", "content": "done"}
TALK = [SYSTEM, USER, call('{"path": "a"}'), answer("x = 1"), call('{"path":'), answer("what?"), DONE]


def test_whole_conversations(tmp_path: Path) -> None:
    log = lines(tmp_path / "log.jsonl", {"messages": TALK, "tools": [READ]}, {"messages": TALK[1:3]})
    made = import_logs("openai", log, tmp_path / "run")
    assert (made["rollouts"], made["turns"]) == (2, {"json_invalid": 1, "ok": 1, "final": 1, "unjudged": 1})
    (first, second), problems = read_traces([tmp_path / "run"])
    assert not problems and (first.passed, first.model, first.ended, first.whole) == (None, None, "final", True)
    said_ = [m.content for m in first.turns[2].context]
    assert said_[:4] == ["You fix.", "fix it", "", "x = 1"] and said_[5:] == ["what?"]
    assert json.loads(said_[4]) == {"arguments": '{"path":', "id": "c1", "name": "read"}
    assert (first.system, first.source, second.tools, second.ended) == ("You fix.", "import:openai", None, "stopped")
    events = [json.loads(line) for line in first.path.read_text().splitlines()]
    assert events[0]["sampling"] == {} and events[0]["seed"] is None and events[-1]["completion_tokens"] is None
    assert [event.get("finish_reason") for event in events if event["kind"] == "llm_action"] == [None] * 3
    found = inventory([tmp_path / "run"])
    assert found["turns"] == made["turns"] and (found["unknown"], found["raw_unknown"]) == (2, 3)
    assert "give --tools" in found["problems"][0]


def test_the_older_wire_has_functions_and_one_function_call(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "read", "arguments": '{"path": "a"}'}}
    talk = [SYSTEM, USER, called, {"role": "function", "name": "read", "content": "x = 1"}, DONE]
    log = lines(tmp_path / "log.jsonl", {"messages": talk, "functions": [READ["function"]]})
    log.write_bytes(b"\xef\xbb\xbf" + log.read_bytes())
    assert import_logs("openai", log, tmp_path / "run")["turns"] == {"ok": 1, "final": 1}
    (trace,) = read_traces([tmp_path / "run"])[0]
    assert trace.tools == [READ] and trace.turns[1].context[-1].role == "tool"


def test_a_text_that_the_agent_went_on_from_is_no_final(tmp_path: Path) -> None:
    two = call('{"path": "a"}')
    two["tool_calls"] = two["tool_calls"] * 2
    prose = [SYSTEM, USER, {"role": "assistant", "content": "I look."}, *TALK[2:4], DONE]
    log = lines(
        tmp_path / "log.jsonl",
        {"messages": prose, "tools": [READ]},
        {"messages": [SYSTEM, USER, two, answer("x"), DONE], "tools": [READ]},
    )
    made = import_logs("openai", log, tmp_path / "run")
    assert made["turns"] == {"no_call": 1, "ok": 2, "final": 2}
    assert inventory([tmp_path / "run"])["turns"] == made["turns"]


def test_logged_requests_are_threaded_like_live_ones(tmp_path: Path) -> None:
    def entry(messages: list[Any], reply: dict[str, Any]) -> dict[str, Any]:
        return {"request": {"model": "m", "messages": messages, "tools": [READ]}, "response": completion(reply)}

    first, other = [SYSTEM, USER], [SYSTEM, {"role": "user", "content": "another"}]
    step = said(calls=[("read", {"path": "a"})])
    done = [completion(step)["choices"][0]["message"], answer("x = 1", "call_0")]
    failed = {**entry([*first, *done], step), "response": {"error": {"message": "overloaded"}}}
    log = lines(
        tmp_path / "log.jsonl", entry(first, step), entry(other, step), failed, entry([*first, *done], said("done"))
    )
    made = import_logs("openai", log, tmp_path / "run")
    assert made["turns"] == {"ok": 2, "final": 1} and made["rollouts"] == 2
    traces, _ = read_traces([tmp_path / "run"])
    turns = {trace.turns[0].context[1].content: [turn.turn_class for turn in trace.turns] for trace in traces}
    assert turns == {"fix it": ["ok", "infra_error", "final"], "another": ["ok"]}


LOOK = "Look.\n```\nls -a\n```"


def trajectory(**more: Any) -> dict[str, Any]:
    demo = [{"role": "user", "content": "a demonstration", "agent": "primary", "is_demo": True}]
    shell = [
        {"role": "system", "content": "SETTING", "agent": "primary"},
        *demo,
        {"role": "user", "content": "the issue", "agent": "primary"},
        {"role": "assistant", "content": LOOK, "thought": "Look.", "action": "ls -a\n", "agent": "primary"},
        {"role": "user", "content": "app.py", "agent": "primary"},
        {"role": "assistant", "content": "no command here", "thought": "", "action": "", "agent": "primary"},
    ]
    return {"environment": "swe_main", "trajectory": [], "history": shell, "info": {"exit_status": "submitted"}, **more}


def test_sweagent_commands_are_the_calls_that_it_read_itself(tmp_path: Path) -> None:
    (tmp_path / "a.traj").write_text(json.dumps(trajectory()))
    made = import_logs("sweagent", tmp_path, tmp_path / "run")
    assert made["turns"] == {"no_call": 1, "ok": 1} and made["files"] == 1
    (trace,), _ = read_traces([tmp_path / "run"])
    assert (trace.task, trace.ended, trace.passed, trace.protocol) == ("a", "submitted", None, "sweagent")
    assert trace.turns[0].call and trace.turns[0].call.args == {"command": "ls -a\n"}
    assert trace.turns[0].text == LOOK and len(trace.turns[0].context) == 3
    assert inventory([tmp_path / "run"])["turns"] == made["turns"]


def test_sweagent_tool_calls_need_schemas_to_be_judged(tmp_path: Path) -> None:
    history = [{**message, "agent": "main"} for message in [SYSTEM, USER, call('{"path": "a"}'), answer("x = 1")]]
    (tmp_path / "b.traj").write_text(json.dumps(trajectory(history=history)))
    assert import_logs("sweagent", tmp_path / "b.traj", tmp_path / "run")["turns"] == {"unjudged": 1}
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps([READ]))
    assert import_logs("sweagent", tmp_path / "b.traj", tmp_path / "judged", schema)["turns"] == {"ok": 1}
    assert inventory([tmp_path / "run"], schema)["turns"] == inventory([tmp_path / "judged"])["turns"] == {"ok": 1}


@pytest.mark.parametrize(
    ("kind", "text", "what", "where"),
    [
        ("openai", '{"messages": []}\n', "without an assistant", "log:1"),
        ("openai", '\n{"messages": [\n', "not JSON", "log:2"),
        ("openai", '{"prompt": "x"}\n', "no list of messages", "log:1"),
        ("openai", "[1]\n", "not a JSON object", "log:1"),
        ("openai", "", "no reply", "log"),
        ("sweagent", "{}", "no SWE-agent trajectory", "log"),
        ("sweagent", '{"history": [{"content": "x"}]}', "no SWE-agent trajectory", "log"),
        ("sweagent", "[", "no SWE-agent trajectory", "log"),
        ("other", "", "no importer", "import"),
    ],
)
def test_bad_logs_are_one_clear_line_and_write_nothing(
    tmp_path: Path, kind: str, text: str, what: str, where: str
) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(UserError, match=what) as caught:
        import_logs(kind, tmp_path / "log", tmp_path / "run")
    assert caught.value.where.endswith(where) and [path.name for path in tmp_path.iterdir()] == ["log"]


def test_an_import_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="already exists"):
        import_logs("openai", lines(tmp_path / "log.jsonl", {"messages": TALK}), tmp_path / "run")
    with pytest.raises(UserError, match="not there"):
        import_logs("openai", tmp_path / "none", tmp_path / "new")
