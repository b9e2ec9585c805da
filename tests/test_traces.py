"""Run directories and trace reading: claims between processes, crashes, damaged files, both shapes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.protocols import protocol_named
from repo_agent.traces import schema
from repo_agent.traces.events import DriverNote
from repo_agent.traces.read import find_traces, read_trace, read_traces
from repo_agent.traces.store import RunDir, folder_name

FIXTURES = Path(__file__).parent / "fixtures" / "older"
RECORD = {"arm": "base", "tasks": ["a", "b"], "train": ["a", "b"], "held_out": ["c"], "versions": {"torch": "1"}}
JSON = protocol_named("json")
LIST = JSON.render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 9}))
READ = JSON.render_call(ToolCall("read_file", {"rel_path": "src/app.py", "max_chars": 900}))
MISSING = JSON.render_call(ToolCall("read_file", {"rel_path": "src/none.py", "max_chars": 900}))
WRITE = JSON.render_call(ToolCall("write_file", {"rel_path": "src/app.py", "content": "total = sum\n"}))
FINAL = JSON.render_final("done")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.open(tmp_path / "runs" / "base", RECORD)


@pytest.fixture
def trace(run: RunDir, play) -> Path:
    play(run, "a", [LIST, MISSING, "no object", WRITE, FINAL])
    return run.traces()[0]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


# --- the run directory


def test_open_goes_on_with_the_same_record_and_names_what_differs(run: RunDir) -> None:
    assert RunDir.open(run.path, {**RECORD, "versions": {"torch": "2"}, "isolation": "none"}).record == RECORD
    with pytest.raises(UserError, match="differing: arm, seed"):
        RunDir.open(run.path, {**RECORD, "arm": "tuned", "seed": 1})
    assert run.record == RECORD


def test_open_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no run directory"):
        RunDir.open(tmp_path, RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", [None, '{"arm": "ba', "[]"])
def test_a_missing_or_torn_record_is_a_user_error(run: RunDir, text: str | None) -> None:
    (run.path / "run.json").unlink()
    if text is not None:
        (run.path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json"):
        _ = run.record


def test_a_rollout_is_owed_until_its_trace_is_whole(run: RunDir) -> None:
    wanted = [("b", 0), ("a", 0), ("a", 1)]
    writer = run.claim("a", 0)
    assert writer and run.claim("a", 0) is None
    writer.emit(DriverNote(note="under way"))
    assert run.pending(wanted) == wanted and run.traces() == []
    writer.commit()
    assert run.pending(wanted) == [("b", 0), ("a", 1)] and run.claim("a", 0) is None
    assert [path.name for path in run.traces()[0].parent.iterdir()] == ["0.jsonl"]


def test_our_own_errors_are_kept_apart_and_owed_again(run: RunDir) -> None:
    for attempt in range(2):
        writer = run.claim("a", 3)
        assert writer
        writer.emit(DriverNote(note=f"attempt {attempt}"))
        assert writer.fail() == run.path / "errors" / "a" / f"3-{attempt}.jsonl"
    assert run.pending([("a", 3)]) == [("a", 3)] and run.traces() == [] and run.rows() == []


def test_traces_come_by_task_then_by_number(run: RunDir, play) -> None:
    for task, k in [("b", 0), ("a", 10), ("a", 9)]:
        play(run, task, [LIST, FINAL], k)
    assert [f"{path.parent.name}{path.stem}" for path in run.traces()] == ["a9", "a10", "b0"]
    assert [(row["task"], row["rollout"]) for row in run.rows()] == [("a", 9), ("a", 10), ("b", 0)]


def test_the_index_says_what_the_trace_says(run: RunDir, trace: Path) -> None:
    assert run.rows() == [
        {
            "task": "a",
            "rollout": 0,
            "trace": "traces/a/0.jsonl",
            "ended": "final",
            "passed": True,
            "steps": 5,
            "calls": 3,
            "classes": {"ok": 2, "exec_error": 1, "no_call": 1, "final": 1},
            "lenient_ok": 3,
            "raw_unknown": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "seconds": 0.5,
            "verbatim": None,
            "cost_usd": None,
            "isolation": "none",
        }
    ]


@pytest.mark.parametrize(
    "index", ["", '{"trace": "traces/a/0.jsonl"', '{"trace": "traces/gone/0.jsonl"}\n', "[]\n[]\n"]
)
def test_an_index_out_of_step_is_rebuilt(run: RunDir, trace: Path, index: str) -> None:
    rows = run.rows()
    (run.path / "results.jsonl").write_text(index)
    assert run.rows() == rows
    assert [json.loads(line) for line in lines_of(run.path / "results.jsonl")] == rows


def test_a_whole_trace_without_an_end_never_reaches_the_index(run: RunDir, trace: Path) -> None:
    trace.write_text("".join(lines_of(trace)[:-1]))
    with pytest.raises(UserError, match="run_end"):
        run.write_index()


@settings(max_examples=50, deadline=None)
@example("x" * 300, "x" * 299 + "y")
@example(".", "%2E")
@given(st.text(max_size=20), st.text(max_size=20))
def test_folder_names_are_safe_and_tell_tasks_apart(one: str, other: str) -> None:
    name = folder_name(one)
    assert name not in ("", ".", "..") and "/" not in name and "\0" not in name and len(name.encode()) < 256
    assert (name == folder_name(other)) == (one == other)


# --- several processes


WORKER = """
import sys
from pathlib import Path
from repo_agent.traces import schema
from repo_agent.traces.events import DriverNote
from repo_agent.traces.store import RunDir
run, mode = RunDir(Path(sys.argv[1])), sys.argv[2]
if mode == "hang":
    writer = run.claim("a", 0)
    writer.emit(DriverNote(note="before the kill"))
    print("claimed", flush=True)
    sys.stdin.read()
for k in range(40):
    writer = run.claim("race", k)
    if writer:
        writer.emit(DriverNote(note=mode))
        writer.commit()
        print(k)
"""


def worker(run: RunDir, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(run.path), mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_its_rollout_owed(run: RunDir) -> None:
    with worker(run, "hang") as process:
        assert process.stdout and process.stdout.readline() == "claimed\n"
        assert run.claim("a", 0) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    part = run.path / "traces" / "a" / "0.jsonl.part"
    assert "before the kill" in part.read_text() and run.pending([("a", 0)])
    writer = run.claim("a", 0)
    assert writer and part.read_text() == ""
    writer.commit()
    assert not run.pending([("a", 0)])


def test_two_processes_never_both_write_a_rollout(run: RunDir) -> None:
    workers = [worker(run, name) for name in ("one", "two")]
    got = [{int(line) for line in process.communicate()[0].split()} for process in workers]
    assert not got[0] & got[1]
    assert not run.pending([("race", k) for k in sorted(got[0] | got[1])])
    assert all(len(lines_of(path)) == 1 for path in run.traces())
    for k in range(40):
        if writer := run.claim("race", k):
            writer.commit()
    assert not run.pending([("race", k) for k in range(40)])


# --- reading our own shape


def test_contexts_are_the_messages_that_the_model_was_sent(run: RunDir, play) -> None:
    model = play(run, "a", [LIST, MISSING, "no object", READ, WRITE, FINAL])
    trace = read_trace(run.traces()[0])
    assert [turn.context for turn in trace.turns] == model.heard
    assert [turn.turn_class for turn in trace.turns] == ["ok", "exec_error", "no_call", "ok", "ok", "final"]
    assert [turn.ok for turn in trace.turns] == [True, False, None, True, True, None]
    assert trace.turns[1].code == "not_found" and trace.turns[5].final == {"type": "final", "summary": "done"}
    assert trace.whole and trace.passed and trace.ended == "final" and not trace.problems


def test_a_torn_last_line_is_dropped_and_listed(trace: Path) -> None:
    lines = lines_of(trace)
    trace.write_text("".join(lines[:-1]) + lines[-1][:20])
    read = read_trace(trace)
    assert len(read.turns) == 5 and not read.whole and read.passed is None
    assert [problem.split(": ")[0] for problem in read.problems] == [
        f"{trace}:{len(lines)}",
        f"{trace}:{len(lines) - 1}",
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"v":1,"kind":"llm_req\n', "not a JSON object"),
        ('{"v":1,"ts":1.0,"kind":"telepathy"}\n', "'telepathy'"),
        ('{"v":2,"ts":1.0,"kind":"driver_note","note":""}\n', "'driver_note'"),
    ],
)
def test_a_foreign_line_in_the_middle_stops_with_its_place(trace: Path, line: str, what: str) -> None:
    lines = lines_of(trace)
    trace.write_text("".join([*lines[:3], line, *lines[3:]]))
    with pytest.raises(UserError, match=what) as caught:
        read_trace(trace)
    assert caught.value.where == f"{trace}:4" and caught.value.remedy


@pytest.mark.parametrize("kind", ["run_start", "llm_request", "llm_action"])
def test_a_missing_line_stops_with_its_place(trace: Path, kind: str) -> None:
    lines = lines_of(trace)
    gone = next(index for index, line in enumerate(lines) if json.loads(line)["kind"] == kind)
    trace.write_text("".join(lines[:gone] + lines[gone + 1 :]))
    with pytest.raises(UserError, match="missing"):
        read_trace(trace)


def test_a_file_without_a_run_is_listed_and_the_rest_is_read(run: RunDir, trace: Path) -> None:
    empty = trace.with_name("1.jsonl")
    empty.touch()
    torn = trace.with_name("2.jsonl")
    torn.write_text('{"v":1,"ki')
    traces, problems = read_traces([run.path])
    assert [read.path for read in traces] == [trace]
    assert [problem.split(": ")[0] for problem in problems] == [str(empty), str(torn)]
    with pytest.raises(UserError, match="no run"):
        read_trace(empty)


def test_each_file_is_read_once(run: RunDir, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    assert len(read_traces([run.path])[0]) == 1 and read == [trace]


@pytest.mark.parametrize(
    "call", [{"name": "grep"}, {"args": {}}, {"name": 1, "args": {}}, {"name": "grep", "args": "{}"}]
)
def test_a_recorded_call_without_name_or_args_stops_with_its_place(trace: Path, call: dict) -> None:
    lines = lines_of(trace)
    place = next(index for index, line in enumerate(lines) if json.loads(line)["kind"] == "llm_action")
    lines[place] = json.dumps({**json.loads(lines[place]), "calls": [call]}) + "\n"
    trace.write_text("".join(lines))
    with pytest.raises(UserError, match="without a name") as caught:
        read_trace(trace)
    assert caught.value.where == f"{trace}:{place + 1}"


def test_a_sent_call_that_cannot_be_read_stops_with_its_place(trace: Path) -> None:
    lines = lines_of(trace)
    place = next(index for index, line in enumerate(lines) if json.loads(line)["kind"] == "llm_request")
    request = json.loads(lines[place])
    request["messages"][-1]["tool_calls"] = [{"function": {"name": "grep"}}]
    lines[place] = json.dumps(request) + "\n"
    trace.write_text("".join(lines))
    with pytest.raises(UserError, match="arguments") as caught:
        read_trace(trace)
    assert caught.value.where == f"{trace}:{place + 1}"


def test_only_whole_traces_of_a_run_directory_are_found(run: RunDir, trace: Path) -> None:
    writer = run.claim("b", 0)
    assert writer
    failed = writer.fail()
    run.rows()
    (trace.parent / "7.jsonl.part").touch()
    assert find_traces([run.path]) == find_traces([run.path.parent]) == find_traces([trace, run.path]) == [trace]
    assert find_traces([failed]) == [failed]
    with pytest.raises(UserError, match="not there"):
        find_traces([run.path / "nowhere"])


# --- the older shape


def test_the_older_json_shape_reads() -> None:
    trace = read_trace(FIXTURES / "json" / "fix_mean.jsonl")
    assert (trace.task, trace.protocol, trace.shape) == ("fix_mean", "json", "older")
    assert (trace.passed, trace.ended, trace.whole) == (False, "parse_error", True)
    assert [turn.text is None for turn in trace.turns] == [True] * 5 + [False]
    note = Message("system", "DRIVER NOTE:\n- look at the signature")
    assert [note in turn.context for turn in trace.turns] == [False, False, True, True, True, True]


def test_the_older_native_shape_reads() -> None:
    trace = read_trace(FIXTURES / "native" / "fix_mean.jsonl")
    assert (trace.protocol, trace.passed, len(trace.turns)) == ("native", True, 6)
    for turn, after in zip(trace.turns, trace.turns[1:], strict=False):
        assert turn.reply.tool_calls == (turn.call,)
        assert after.context[: len(turn.context) + 1] == (*turn.context, turn.reply)
    assert trace.turns[1].ok is False and trace.turns[4].ok is True


def test_an_unknown_older_event_stops_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    shutil.copy(FIXTURES / "json" / "fix_mean.jsonl", path)
    path.write_text(path.read_text() + '{"ts":1,"kind":"dream","payload":{}}\n')
    with pytest.raises(UserError, match="dream"):
        read_trace(path)


def test_a_damaged_older_trace_keeps_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    lines = lines_of(FIXTURES / "native" / "fix_mean.jsonl")
    path.write_text("".join(lines[:-1]) + lines[-1][:40])
    trace = read_trace(path)
    assert len(trace.turns) == 6 and trace.passed is None and not trace.whole and len(trace.problems) == 2


def changed(tmp_path: Path, kind: str, change, shape: str = "native") -> tuple[Path, int]:
    """A copy of an older fixture with `change` put to its last event of a kind, and the number of that line."""
    records = [json.loads(line) for line in lines_of(FIXTURES / shape / "fix_mean.jsonl")]
    place = max(index for index, record in enumerate(records) if record["kind"] == kind)
    change(records[place])
    path = tmp_path / "changed.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path, place + 1


def put(value, *keys):
    """A change of one entry of a nested record."""

    def change(record) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


MESSAGES = ("payload", "messages")
FUNCTION = (*MESSAGES, 2, "tool_calls", 0, "function")


@pytest.mark.parametrize(
    ("kind", "change", "what"),
    [
        ("tool_result", put("fine", "payload", "obs"), "'obs' is not an object"),
        ("tool_result", put("yes", "payload", "obs", "ok"), "'ok' is not true or false"),
        ("tool_result", put(["a"], "payload", "obs", "output"), "'output' is not a text"),
        ("run_start", put("m", "meta"), "'meta' is not an object"),
        ("run_start", put(["m"], "meta", "model"), "'model' is not a text"),
        ("run_end", put("done", "payload", "state"), "'state' is not an object"),
        ("run_end", put("ok", "payload", "state", "last_test"), "'last_test' is not an object"),
        ("run_end", put(["run_end"], "kind"), "unknown kind"),
        ("llm_action", put("read", "payload", "action"), "'action' is not an object"),
        ("llm_action", put({"raw": 3}, "payload"), "'raw' is not an object"),
        ("llm_request", put("hello", *MESSAGES), "'messages' is not a list"),
        ("llm_request", put([], *MESSAGES), "without messages"),
        ("llm_request", put("hello", *MESSAGES, 1), "a message that cannot be read"),
        ("llm_request", put({"content": "x"}, *MESSAGES, 1), "without a role"),
        ("llm_request", put(3, *MESSAGES, 1, "content"), "no text"),
        ("llm_request", put([{"type": "image_url"}], *MESSAGES, 1, "content"), "'text'"),
        ("llm_request", put("calls", *MESSAGES, 2, "tool_calls"), "a message that cannot be read"),
        ("llm_request", put({"arguments": "{}"}, *FUNCTION), "'name'"),
        ("llm_request", put(None, *FUNCTION, "name"), "without a name"),
    ],
)
def test_an_older_record_of_another_shape_stops_with_its_place(tmp_path: Path, kind: str, change, what: str) -> None:
    path, number = changed(tmp_path, kind, change)
    with pytest.raises(UserError, match=what) as caught:
        read_trace(path)
    assert caught.value.where == f"{path}:{number}" and caught.value.remedy


def test_a_message_in_parts_is_its_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "GOAL:\n"}, {"type": "text", "text": "mend it"}]
    path, _ = changed(tmp_path, "llm_request", put(parts, *MESSAGES, 1, "content"))
    assert read_trace(path).turns[-1].context[1] == Message("user", "GOAL:\nmend it")


@pytest.mark.parametrize("arguments", ['{"rel_dir": ".", ', "", "[1]", '"x"', "[" * 100_000])
def test_arguments_that_are_no_object_stay_as_text(tmp_path: Path, arguments: str) -> None:
    path = tmp_path / "bad.jsonl"
    records = [json.loads(line) for line in lines_of(FIXTURES / "native" / "fix_mean.jsonl")]
    for record in records:
        if len(record["payload"].get("messages", [])) > 2:
            put(arguments, *FUNCTION, "arguments")(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    trace = read_trace(path)
    first, second = trace.turns[:2]
    assert (first.broken_arguments, first.call, first.text) == (True, None, arguments)
    assert first.reply == second.context[2] == Message("assistant", arguments)
    assert trace.protocol == "native" and not second.broken_arguments and second.call


@pytest.mark.parametrize(("args", "text"), [('{"rel_path"', '{"rel_path"'), ([1], None), (None, None)])
def test_the_last_native_action_may_have_arguments_that_are_no_object(tmp_path: Path, args, text: str | None) -> None:
    action = {"type": "tool_call", "name": "read_file", "args": args}
    path, _ = changed(tmp_path, "llm_action", put({"t": 5, "action": action}, "payload"))
    turn = read_trace(path).turns[-1]
    assert (turn.broken_arguments, turn.call, turn.text) == (True, None, text)
    action["args"] = '{"rel_path": "a"}'
    path, _ = changed(tmp_path, "llm_action", put({"t": 5, "action": action}, "payload"))
    assert read_trace(path).turns[-1].call == ToolCall("read_file", {"rel_path": "a"})


MESSAGE_TEXTS = st.sampled_from(["", "x", 'a "quoted", one]', '"messages": [', "é\n\\", "}, {"]) | st.text(max_size=6)
OLDER_MESSAGES = st.builds(
    lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "tool"]), MESSAGE_TEXTS
)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "add", "again", "edit", "cut"]), OLDER_MESSAGES), max_size=8)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_older_requests_read_as_a_whole_parse_would(tmp_path_factory, steps, compact: bool, mixed: bool) -> None:
    """However histories grow, stay, change or shrink, and however they are spelt."""
    history, sent = [{"role": "system", "content": "s"}], []
    records = [{"ts": 1, "kind": "run_start", "payload": {}}]
    for what, message in steps:
        if what == "add":
            history = [*history, message]
        elif what == "edit":
            history = [*history[:-1], message]
        elif what == "cut":
            history = history[: max(1, len(history) - 2)]
        sent.append(list(history))
        records.append({"ts": 1, "kind": "llm_request", "payload": {"t": 0, "messages": history, "after": "]"}})
        reply = {"type": "tool_call", "name": "f", "args": {}}
        records.append({"ts": 1, "kind": "llm_action", "payload": {"raw": json.dumps(reply), "action": reply}})
    path = tmp_path_factory.mktemp("older") / "0.jsonl"
    spelt = [(",", ":") if compact != (mixed and number % 2) else (", ", ": ") for number in range(len(records))]
    path.write_text("".join(json.dumps(r, separators=s) + "\n" for r, s in zip(records, spelt, strict=True)))
    turns = read_trace(path).turns
    assert [[m.to_dict() for m in turn.context] for turn in turns] == sent


# --- the schema, and the size


def test_the_schema_in_the_docs_is_current_and_fits_real_traces(run: RunDir, trace: Path) -> None:
    stored = Path(__file__).parent.parent / "docs" / "trace.schema.json"
    assert stored.read_text() == schema.text(), "python -m repo_agent.traces.schema > docs/trace.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(stored.read_text()))
    records = [json.loads(line) for line in lines_of(trace)]
    assert {record["kind"] for record in records} >= {"run_start", "llm_request", "llm_action", "tool_result", "tests"}
    for record in records:
        validator.validate(record)
        for wrong in ({**record, "more": 1}, {**record, "v": 1}, {**record, "kind": "telepathy"}):
            assert not validator.is_valid(wrong)


def write(text: str) -> str:
    return JSON.render_call(ToolCall("write_file", {"rel_path": "src/app.py", "content": text}))


def test_a_trace_grows_with_its_text(run: RunDir, play) -> None:
    source, sizes = Path(__file__).read_text()[:1500], []
    for k, turns in enumerate((10, 40)):
        play(run, "a", [LIST, *(write(f"{source}\n# {n}\n") for n in range(turns)), FINAL], k)
        read = read_trace(run.traces()[k])
        text = sum(len(message.content.encode()) for message in read.turns[-1].context)
        sizes.append(run.traces()[k].stat().st_size / text)
    assert max(sizes) < 3.5 and max(sizes) / min(sizes) < 1.3, sizes


def test_a_trace_can_be_read_with_less(run: RunDir, play) -> None:
    model = play(run, "a", [LIST, READ, WRITE, FINAL])
    records = [json.loads(line) for line in run.traces()[0].read_text().splitlines()]
    requests = [record for record in records if record["kind"] == "llm_request"]
    assert requests[2]["messages"] == [{"role": "user", "content": model.heard[2][-1].content}]
    action = [record for record in records if record["kind"] == "llm_action"][1]
    assert action["text"] == READ and action["calls"] == [
        {"name": "read_file", "args": {"rel_path": "src/app.py", "max_chars": 900}}
    ]
    assert [turn.context for turn in read_trace(run.traces()[0]).turns] == model.heard


def test_a_large_trace_is_compressed_when_it_is_whole(run: RunDir, play, monkeypatch: pytest.MonkeyPatch) -> None:
    play(run, "a", [LIST, READ, FINAL])
    monkeypatch.setattr("repo_agent.traces.writer.LARGE", 1000)
    model = play(run, "a", [LIST, READ, FINAL], 1)
    plain, packed = run.traces()
    assert [path.name for path in packed.parent.iterdir() if path != plain] == ["1.jsonl.gz"] == [packed.name]
    assert [turn.context for turn in read_trace(packed).turns] == model.heard
    assert find_traces([run.path]) == [plain, packed] and [row["rollout"] for row in run.rows()] == [0, 1]
    assert run.pending([("a", 0), ("a", 1), ("a", 2)]) == [("a", 2)] and run.claim("a", 1) is None
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read_trace(packed)


def test_turns_share_one_conversation(run: RunDir, play) -> None:
    play(run, "a", [LIST, "no object", READ, FINAL])
    turns = read_trace(run.traces()[0]).turns
    assert len({id(turn.messages) for turn in turns}) == 1 and all(turn.sent_back for turn in turns)


# --- format 1


def without_ids(message: Message) -> dict[str, Any]:
    record = message.to_dict()
    record.pop("tool_call_id", None)
    for call in record.get("tool_calls", ()):
        call.pop("id", None)
    return record


@pytest.mark.parametrize("name", ["json", "native", "recorded"])
def test_format_1_reads_as_it_did(name: str) -> None:
    """What that format's own reader made of each file, kept beside them; but for a reply that its agent changed,
    which is now the model's own."""
    folder = FIXTURES.parent / "v1"
    expected = json.loads((folder / "expected.json").read_text())[name]
    trace = read_trace(folder / f"{name}.jsonl")
    assert (trace.shape, trace.passed, trace.ended) == ("v1", expected["passed"], expected["ended"])
    edited = {0: " thinking  "} if name == "recorded" else {}
    for turn, known in zip(trace.turns, expected["turns"], strict=True):
        assert list(map(without_ids, turn.context)) == known["context"]
        reply = {**known["reply"], "content": edited.get(turn.t, known["reply"]["content"])}
        assert without_ids(turn.reply) == reply and turn.sent_back == (name != "recorded" or turn.t > 1)
        assert (turn.call and [turn.call.name, turn.call.args]) == known["call"]
        assert (turn.turn_class, turn.ok, turn.output) == (known["class"], known["ok"], known["output"])


def test_a_quote_of_nothing_stops_with_its_place(tmp_path: Path) -> None:
    lines = lines_of(FIXTURES.parent / "v1" / "json.jsonl")
    request = json.loads(lines[1])
    request["messages"][0]["content"] = [{"quote": "tests"}]
    path = tmp_path / "odd.jsonl"
    path.write_text("".join([lines[0], json.dumps(request) + "\n", *lines[2:]]))
    with pytest.raises(UserError, match="tests") as caught:
        read_trace(path)
    assert caught.value.where == f"{path}:2"
