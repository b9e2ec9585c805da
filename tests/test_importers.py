"""Importers: what a log says becomes a trace, what it does not say stays None, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from upstream import completion, said

from repo_agent.data.build import BuildOptions, build
from repo_agent.data.inventory import inventory
from repo_agent.errors import UserError
from repo_agent.record.importers import import_logs
from repo_agent.record.schemas import write_schemas
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
        ("openai", "[1]\n", "not a JSON object", "log: entry 1"),
        ("openai", '[{"messages": []}', "a list that does not end", "log"),
        ("openai", "", "is empty", "log"),
        ("openai", " \n", "is empty", "log"),
        ("sweagent", "{}", "no SWE-agent trajectory", "log"),
        ("sweagent", '{"history": [{"content": "x"}]}', "no SWE-agent trajectory", "log"),
        ("sweagent", "[", "no SWE-agent trajectory", "log"),
        ("sweagent", '{"history": []}', "without a turn", "log"),
        ("mini", '{"messages": [', "no mini-swe-agent trajectory", "log"),
        ("mini", '{"messages": [{"role": "user", "content": "x"}]}', "without a turn", "log"),
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


IMPORTS = Path(__file__).parent / "fixtures" / "imports"
GOOD = [USER, call('{"path": "a"}'), answer("x = 1"), DONE]


def test_one_bad_file_never_stops_the_others(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    lines(logs / "a.jsonl", {"messages": GOOD, "tools": [READ], "passed": True})
    (logs / "empty.jsonl").write_text("")
    (logs / "utf16.jsonl").write_bytes(json.dumps({"messages": GOOD}).encode("utf-16"))
    torn = lines(logs / "torn.jsonl", {"messages": GOOD, "tools": [READ], "passed": False}, {"messages": GOOD})
    torn.write_bytes(torn.read_bytes()[:-30])
    lines(logs / "other.jsonl", {"prompt": "x"}, {"messages": GOOD, "tools": [READ], "passed": True})
    (logs / "gone.jsonl").symlink_to(logs / "nowhere")
    (logs / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + (logs / "a.jsonl").read_bytes())
    made = import_logs("openai", logs, tmp_path / "run")
    assert (made["rollouts"], made["passed"], made["turns"]) == (4, 3, {"ok": 4, "final": 4})
    places = [problem.split(": ")[0].removeprefix(f"{logs}/") for problem in made["problems"]]
    assert places == ["empty.jsonl", "gone.jsonl", "other.jsonl:1", "torn.jsonl:2", "utf16.jsonl"]
    assert "iconv" in made["problems"][-1]
    lines(logs / "many.jsonl", *([3] * 30))
    assert len(import_logs("openai", logs, tmp_path / "more")["problems"]) == 21


ODD = {
    "seed as text": ({"seed": "7"}, {}),
    "seed as a number": ({"seed": 1.5}, {}),
    "finish reason": ({}, {"choices": [{"message": DONE, "finish_reason": ["stop"]}]}),
    "usage": ({}, {"usage": {"prompt_tokens": True, "completion_tokens": 1.0}}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_in_a_log_leave_a_trace_that_reads_back(tmp_path: Path, name: str) -> None:
    asked, answered = ODD[name]
    request = {"messages": GOOD[:-1], "tools": [READ], **asked}
    log = lines(tmp_path / "log.jsonl", {"request": request, "response": completion(said("done")) | answered})
    import_logs("openai", log, tmp_path / "run")
    (trace,), problems = read_traces([tmp_path / "run"])
    assert not problems and [turn.turn_class for turn in trace.turns] == ["final"]


@pytest.mark.parametrize("body", ["x", None, 3, [], {"messages": "x"}])
def test_a_request_that_holds_no_body_is_listed(tmp_path: Path, body: Any) -> None:
    good = {"messages": GOOD, "tools": [READ]}
    log = lines(tmp_path / "log.jsonl", {"request": {"body": body}, "response": {}}, {"request": body}, good)
    made = import_logs("openai", log, tmp_path / "run")
    assert made["turns"] == {"ok": 1, "final": 1}
    assert [f"{log}:{n}: no list of messages" in made["problems"][n - 1] for n in (1, 2)] == [True, True]


@pytest.mark.parametrize("shape", ["array", "pretty", "kwargs", "string", "request", "body", "torn response"])
def test_chat_logs_of_many_shapes_become_rows(tmp_path: Path, shape: str) -> None:
    entry: dict[str, Any] = {"messages": GOOD, "tools": [READ], "passed": True, "task": "t/1"}
    request = {"model": "m", "messages": GOOD[:-1], "tools": [READ]}
    records: dict[str, Any] = {
        "array": json.dumps([entry], indent=1),
        "pretty": json.dumps(entry, indent=2),
        "kwargs": json.dumps({**entry, "tools": None, "kwargs": {"tools": [READ], "temperature": 0.5}}),
        "string": json.dumps({**entry, "messages": json.dumps(GOOD), "tools": json.dumps([READ])}),
        "request": json.dumps({"request": request, "response": completion(said("done")), "passed": True}),
        "body": json.dumps(
            {
                "request": {"body": json.dumps(request)},
                "response": {"body": json.dumps(completion(said("done")))},
                "passed": True,
            }
        ),
        "torn response": "\n".join(
            json.dumps({"request": request, "response": {"choices": one}, "passed": True})
            for one in ([{"message": 3}], completion(said("done"))["choices"])
        ),
    }
    log = tmp_path / "log.jsonl"
    log.write_text(records[shape] + "\n")
    made = import_logs("openai", log, tmp_path / "run")
    whole = shape in ("array", "pretty", "kwargs", "string")
    expected = {"ok": 1, "final": 1} if whole else {"final": 1}
    assert made["passed"] == 1 and {k: v for k, v in made["turns"].items() if k != "infra_error"} == expected
    build(BuildOptions([tmp_path / "run"], no_split=True), tmp_path / "data")
    (row,) = [json.loads(line) for line in (tmp_path / "data" / "trajectories.jsonl").open()]
    assert sum(turn["kept"] for turn in row["turns"]) == sum(expected.values())
    assert not whole or row["task"] == "t/1"


def test_the_shared_cases_come_in(tmp_path: Path) -> None:
    for name in ("array.jsonl", "messages-as-string.jsonl"):
        made = import_logs("openai", IMPORTS / name, tmp_path / name)
        assert made["turns"] == {"ok": 1, "final": 1} and "no outcome" in made["problems"][0]
    made = import_logs("mini", IMPORTS, tmp_path / "mini", passed=True)
    assert (made["turns"], made["problems"]) == ({"ok": 2}, [])
    (trace,), _ = read_traces([tmp_path / "mini"])
    assert (trace.task, trace.ended, trace.protocol) == ("x", "Submitted", "mini-swe-agent")
    assert trace.turns[0].call and trace.turns[0].call.args == {"command": "ls"}
    build(BuildOptions([tmp_path / "mini"], no_split=True), tmp_path / "data")
    (row,) = [json.loads(line) for line in (tmp_path / "data" / "trajectories.jsonl").open()]
    assert [turn["kept"] for turn in row["turns"]] == [True, True]


def test_mini_swe_agent_with_tool_calls_and_texts_that_it_could_not_read(tmp_path: Path) -> None:
    bash = call('{"command": "ls"}', "bash")
    native = {
        "instance_id": "x__y-1",
        "info": {"exit_status": "Submitted", "config": {"model": {"model_name": "m/1"}}},
        "messages": [
            SYSTEM,
            USER,
            bash,
            answer("a.py"),
            call("{", "bash"),
            answer("?"),
            {"role": "exit", "content": ""},
        ],
    }
    texts = ["no fence", "```bash\nls\n```\n```bash\nls\n```", "```mswea_bash_command\nls -a\n```"]
    talk = [one for text in texts for one in ({"role": "assistant", "content": text}, USER)]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.traj.json").write_text(json.dumps(native))
    (tmp_path / "logs" / "b.traj.json").write_text(json.dumps({"messages": [SYSTEM, USER, *talk]}))
    (tmp_path / "logs" / "c.traj.json").write_text('{"messages": [{"role": ')
    made = import_logs("mini", tmp_path / "logs", tmp_path / "run", passed=True)
    assert made["turns"] == {"no_call": 1, "multiple_calls": 1, "json_invalid": 1, "ok": 2}
    assert len(made["problems"]) == 1 and "c.traj.json" in made["problems"][0]
    traces = {trace.task: trace for trace in read_traces([tmp_path / "run"])[0]}
    assert set(traces) == {"x__y-1", "b"} and traces["x__y-1"].model == "m/1"


def test_sweagent_commands_become_rows(tmp_path: Path) -> None:
    (tmp_path / "a.traj").write_text(json.dumps(trajectory()))
    import_logs("sweagent", tmp_path, tmp_path / "run", passed=True)
    build(BuildOptions([tmp_path / "run"], no_split=True), tmp_path / "data")
    (row,) = [json.loads(line) for line in (tmp_path / "data" / "trajectories.jsonl").open()]
    assert [(turn["class"], turn["kept"]) for turn in row["turns"]] == [("ok", True)]


def test_the_schemas_of_a_run_are_a_file_that_judges_other_logs(tmp_path: Path) -> None:
    strict = {**READ, "function": {**READ["function"], "strict": True}}
    log = lines(tmp_path / "log.jsonl", {"messages": GOOD, "tools": [strict, {"type": "web_search"}]})
    import_logs("openai", log, tmp_path / "run")
    schema = tmp_path / "schema.json"
    assert write_schemas([tmp_path / "run"], schema)["tools"] == ["read", "web_search"]
    assert json.loads(schema.read_text()) == [strict, {"type": "web_search"}]
    bare = lines(tmp_path / "bare.jsonl", {"messages": GOOD})
    assert import_logs("openai", bare, tmp_path / "judged", schema)["turns"] == {"ok": 1, "final": 1}
    import_logs("openai", bare, tmp_path / "none")
    lines(tmp_path / "log.jsonl", {"messages": GOOD, "tools": [{**READ, "function": {"name": "read"}}]})
    import_logs("openai", log, tmp_path / "other")
    for runs, what in (
        ([tmp_path / "none"], "no trace says"),
        ([tmp_path / "run", tmp_path / "other"], "another schema"),
    ):
        with pytest.raises(UserError, match=what):
            write_schemas(runs, tmp_path / "new.json")
    with pytest.raises(UserError, match="already exists"):
        write_schemas([tmp_path / "run"], schema)


def test_an_import_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="already exists"):
        import_logs("openai", lines(tmp_path / "log.jsonl", {"messages": TALK}), tmp_path / "run")
    with pytest.raises(UserError, match="not there"):
        import_logs("openai", tmp_path / "none", tmp_path / "new")
