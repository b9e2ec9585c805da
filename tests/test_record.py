"""The recording proxy: a real agent's client on one side, a scripted server on the other, and the traces between."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from upstream import Upstream, said, upstream

from repo_agent.data.build import BuildOptions, build
from repo_agent.data.inventory import inventory
from repo_agent.errors import UserError
from repo_agent.record.secrets import bare, secrets_of
from repo_agent.record.serve import RecordOptions, serve
from repo_agent.redact import redacted
from repo_agent.traces.read import read_trace, read_traces
from repo_agent.traces.splits import RecordedSplit
from repo_agent.traces.trace import Trace

pytest.importorskip("aiohttp")
openai = pytest.importorskip("openai")

KEY = "sk-test-0123456789abcdef0123"
READ = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
SYSTEM = {"role": "system", "content": "You fix code."}


class Recorder:
    """`record` in a thread of this process: its base URL, its run directory, its counts once it has stopped."""

    def __init__(self, out: Path, url: str, **options: Any) -> None:
        self.out, self.url, self.warnings = out, "", []
        self.result: dict[str, Any] = {}
        self._options = RecordOptions(
            **{"upstream": url, "out": out, "port": 0, "tools": None, "task_from": "goal", **options}
        )
        self._up = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))

    async def _run(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()

        def on_start(url: str, recovered: int) -> None:
            self.url = url
            self._up.set()

        def told(line: str, warning: str | None) -> None:
            self.warnings += [warning] if warning else []

        self.result = await serve(self._options, on_start, told, self._stop.wait)

    def __enter__(self) -> Recorder:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *args: Any) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def client(self, **more: Any) -> Any:
        return openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0, **more)

    def post(self, path: str, record: Any) -> tuple[int, dict[str, Any]]:
        body = record if isinstance(record, bytes) else json.dumps(record).encode()
        request = urllib.request.Request(self.url.removesuffix("/v1") + path, body, method="POST")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def traces(self) -> list[Trace]:
        return read_traces([self.out])[0]


@pytest.fixture
def between(tmp_path: Path) -> Callable[..., Any]:
    """A scripted server with a recorder before it."""

    @contextlib.contextmanager
    def go(script: Callable[[dict[str, Any]], dict[str, Any]], **options: Any) -> Iterator[tuple[Recorder, Upstream]]:
        with upstream(script) as server, Recorder(tmp_path / "runs" / "mine", server.url, **options) as recorder:
            yield recorder, server

    return go


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def play(client: Any, goal: str, turns: int = 9, stream: bool = False, **more: Any) -> list[dict[str, Any]]:
    """A small agent over the plain SDK: it answers calls and goes on until a reply has none."""
    messages = [SYSTEM, user(goal)]
    for _ in range(turns):
        reply = ask(client, messages, stream, **more)
        messages.append(reply)
        if not reply.get("tool_calls"):
            break
        for call in reply["tool_calls"]:
            arguments = call["function"]["arguments"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"contents of {arguments}"})
    return messages


def ask(client: Any, messages: list[dict[str, Any]], stream: bool = False, **more: Any) -> dict[str, Any]:
    words = {"model": "scripted", "messages": messages, "tools": [READ], "temperature": 0.5, **more}
    if not stream:
        return client.chat.completions.create(**words).choices[0].message.model_dump(exclude_none=True)
    with client.chat.completions.stream(**words) as events:
        for _ in events:
            pass
        message = events.get_final_completion().choices[0].message
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for call in message.tool_calls or []
    ]
    return {"role": "assistant", "content": message.content, **({"tool_calls": calls} if calls else {})}


def two_reads(body: dict[str, Any]) -> dict[str, Any]:
    """Two calls, then a final."""
    done = sum(message["role"] == "assistant" for message in body["messages"])
    return said("all done") if done == 2 else said(f"look {done}", [("read", {"path": f"{done}.py"})])


# --- what is recorded


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_over_the_plain_sdk_leaves_whole_traces(between: Callable[..., Any], stream: bool) -> None:
    with between(two_reads) as (recorder, _):
        messages = play(recorder.client(), "fix it", stream=stream)
    (trace,) = recorder.traces()
    assert (trace.whole, trace.passed, trace.ended, trace.source) == (True, None, "final", "record")
    assert (trace.protocol, trace.model, trace.tools) == ("native", "scripted", [READ])
    assert [turn.turn_class for turn in trace.turns] == ["ok", "ok", "final"]
    last = [*trace.turns[-1].context, trace.turns[-1].reply]
    assert [(m.role, m.content) for m in last] == [(m["role"], m.get("content") or "") for m in messages]
    assert [call.args for m in last for call in m.tool_calls] == [{"path": "0.py"}, {"path": "1.py"}]
    found = inventory([recorder.out])
    assert (found["runs"], found["passed"], found["unknown"]) == (1, 0, 1) and not found["problems"]
    assert found["turns"] == {"ok": 2, "final": 1} and found["raw_unknown"] == 2
    assert "validity so far 100.0% of 2 turns" in recorder.result["line"]


def test_usage_sampling_and_finish_reason_are_the_servers_own(between: Callable[..., Any]) -> None:
    with between(lambda body: said("cut of", finish="length")) as (recorder, _):
        play(recorder.client(), "x", max_tokens=3)
    lines = [json.loads(line) for line in recorder.traces()[0].path.read_text().splitlines()]
    start, _, action, end = lines
    assert start["sampling"] == {"temperature": 0.5, "max_tokens": 3}
    assert (action["finish_reason"], action["turn_class"]) == ("length", "truncated")
    assert (action["prompt_tokens"], end["completion_tokens"]) == (11, 7) and end["passed"] is None


FAULTS = {
    "missing_arg": said(calls=[("read", {})]),
    "unexpected_arg": said(calls=[("read", {"path": "a", "deep": 1})]),
    "wrong_type": said(calls=[("read", {"path": 3})]),
    "unknown_tool": said(calls=[("write", {"path": "a"})]),
    "json_invalid": said(calls=[("read", '{"path": "a"')]),
    "multiple_calls": said(calls=[("read", {"path": "a"}), ("read", {"path": "b"})]),
    "no_call": said("I shall look around."),
}


def test_every_class_live_and_afresh(between: Callable[..., Any]) -> None:
    replies = iter([said(calls=[("read", {"path": "a"})]), *FAULTS.values(), said("done")])
    with between(lambda body: next(replies)) as (recorder, _):
        client, messages = recorder.client(), [SYSTEM, user("go")]
        for _ in range(9):
            reply = ask(client, messages, parallel_tool_calls=False)
            messages += [reply, user("go on")] if not reply.get("tool_calls") else [reply]
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": "seen"} for call in reply.get("tool_calls", [])
            ]
    expected = dict.fromkeys(FAULTS, 1) | {"ok": 1, "final": 2}  # a user answered the prose: the end of that exchange
    del expected["no_call"]
    assert recorder.result["turns"] == expected == inventory([recorder.out])["turns"]


def test_text_protocols_are_judged_by_given_tools(between: Callable[..., Any], tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps([READ]))
    call = '{"type":"tool_call","name":"read","args":{"path":"a"}}'
    with between(lambda body: said(call), tools=schema) as (recorder, _):
        client = recorder.client()
        answer = client.chat.completions.create(model="m", messages=[user("hi")])
        assert answer.choices[0].message.content == call
    (trace,) = recorder.traces()
    assert trace.protocol == "json" and inventory([recorder.out])["turns"] == {"ok": 1} and trace.system == ""
    assert trace.turns[0].call and trace.turns[0].call.args == {"path": "a"}


def test_without_any_schema_nothing_is_judged(between: Callable[..., Any]) -> None:
    with between(lambda body: said("hello")) as (recorder, _):
        recorder.client().chat.completions.create(model="m", messages=[user("hi")])
    assert recorder.result["turns"] == inventory([recorder.out])["turns"] == {"unjudged": 1}
    assert "not measured" in recorder.result["line"]


# --- what is passed through


def test_bodies_pass_byte_for_byte_whatever_the_path(between: Callable[..., Any]) -> None:
    odd = b'{"input": [1,2],\n "key":  "\\u00e9"}'
    with between(two_reads) as (recorder, server):
        base = recorder.url.removesuffix("/v1")
        for path, body in [("/v1/embeddings?a=b%2Fc", odd), ("/other/%2Fpath", b"\x00\xff"), ("/v1/models", None)]:
            with urllib.request.urlopen(urllib.request.Request(base + path, body)) as answer:
                assert answer.read() == server.sent[-1]
            method, seen, headers, got = server.seen[-1]
            assert (seen, got) == (path, body or b"") and method == ("POST" if body else "GET")
            assert not [name for name in headers if name.lower().startswith("x-repo-agent")]
        request = json.dumps({"model": "m", "messages": [user("é")], "n": 1}, ensure_ascii=False).encode()
        headers = {"Authorization": f"Bearer {KEY}", "x-repo-agent-rollout": "one", "accept-encoding": "gzip"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{recorder.url}/chat/completions", request, headers)
        ) as answer:
            assert answer.read() == server.sent[-1] and answer.headers["X-Repo-Agent-Conversation"]
        _, _, headers, got = server.seen[-1]
        assert got == request and headers["Authorization"] == f"Bearer {KEY}"
        named = {name.lower(): value for name, value in headers.items()}
        assert named["accept-encoding"] == "identity" and not [name for name in named if name.startswith("x-repo")]


def test_a_body_that_is_too_large_to_record_passes_and_is_counted(
    between: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_agent.record.proxy.MAX_BODY", 50_000)
    with between(two_reads) as (recorder, server):
        for size in (1_000, 300_000):
            body = json.dumps({"model": "m", "messages": [user("x" * size)]}).encode()
            sent = urllib.request.Request(
                f"{recorder.url}/chat/completions", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(sent) as answer:
                assert answer.read() == server.sent[-1]
            assert server.seen[-1][3] == body
    assert recorder.result["rollouts"] == 1 and recorder.result["unrecorded"] == {"/v1/chat/completions": 1}


def test_a_client_that_says_nothing_more_is_no_longer_waited_for(
    between: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_agent.sites.PATIENCE", 0.2)
    with between(two_reads) as (recorder, _):
        host, port = recorder.url.split("/")[2].split(":")
        for path in ("/v1/chat/completions", "/_repo_agent/mark"):
            with socket.create_connection((host, int(port)), timeout=30) as slow:
                head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 900\r\n\r\n"
                slow.sendall(head.encode() + b'{"model": ')
                assert b" 408 " in slow.recv(1000)


def test_a_stream_passes_chunk_by_chunk_and_is_whole_on_disk_before_its_end(between: Callable[..., Any]) -> None:
    with between(lambda body: said("one two three four", drip=0.05)) as (recorder, server):
        body = json.dumps({"model": "m", "messages": [user("hi")], "stream": True}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{recorder.url}/chat/completions", body)) as answer:
            got, times = b"", []
            while chunk := answer.read1():
                got += chunk
                times.append(time.monotonic())
                if b"[DONE]" in got:
                    assert "one two three four" in next(recorder.out.glob("traces/*/*.part")).read_text()
        assert got == server.sent[-1]
    assert len(times) > 4 and times[-1] - times[0] > 0.15


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_server_is_its_own_fault_and_a_retry_goes_on(between: Callable[..., Any], stream: bool) -> None:
    faults = [
        {"status": 429, "body": {"error": {"message": f"slow down, {KEY}"}}},
        {"status": 500, "body": {}},
        {"status": 200, "body": {"choices": []}},
        said("half of it", cut=2) if stream else {"status": 200, "body": ["no object"]},
    ]
    replies = iter([said(calls=[("read", {"path": "a"})]), *faults, said("done")])
    with between(lambda body: next(replies)) as (recorder, _):
        client = recorder.client()
        messages = [SYSTEM, user("x")]
        reply = ask(client, messages, stream)
        messages += [reply, {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": "seen"}]
        with pytest.raises(openai.RateLimitError):
            ask(client, messages, stream)
        for _ in faults[1:]:
            body = json.dumps({"model": "scripted", "messages": messages, "tools": [READ], "stream": stream}).encode()
            request = urllib.request.Request(f"{recorder.url}/chat/completions", body)
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request).read()
        ask(client, messages, stream)
    (trace,) = recorder.traces()
    assert [turn.turn_class for turn in trace.turns] == ["ok", *["infra_error"] * 4, "final"]
    assert len({len(turn.context) for turn in trace.turns[1:]}) == 1
    assert inventory([recorder.out])["turns"] == {"infra_error": 4, "ok": 1, "final": 1}
    assert recorder.result["failed_replies"] == 4 and KEY not in trace.path.read_text()


def test_an_agent_that_hangs_up_or_says_odd_things_harms_nobody(between: Callable[..., Any]) -> None:
    with between(lambda body: said("one two three four five six", drip=0.05)) as (recorder, _):
        body = json.dumps({"model": "m", "messages": [user("hi")], "stream": True}).encode()
        answer = urllib.request.urlopen(urllib.request.Request(f"{recorder.url}/chat/completions", body))
        answer.read1(10)
        answer.close()
        odd = [
            {"messages": [{"role": "user", "content": "\ud800 lone"}], "tools": [{"function": 3}, "x"]},
            {"messages": [{"role": 5, "content": [{"type": "image_url"}, {"text": 7}, None], "tool_calls": [{}, 3]}]},
            {"messages": [], "temperature": "hot"},
        ]
        for record in odd:
            assert recorder.post("/v1/chat/completions", record)[0] == 200
        time.sleep(0.3)
    classes = sorted(turn.turn_class or "" for trace in recorder.traces() for turn in trace.turns)
    assert classes == ["unjudged"] * 3 and not recorder.warnings and recorder.result["errors"] == 1


def test_an_upstream_that_is_not_there_is_a_502_and_no_rollout(tmp_path: Path) -> None:
    with (
        Recorder(tmp_path / "run", "http://127.0.0.1:9/v1") as recorder,
        pytest.raises(openai.InternalServerError, match="cannot reach"),
    ):
        ask(recorder.client(), [user("x")])
    assert recorder.traces() == [] and recorder.result["errors"] == 1
    assert len(list(recorder.out.glob("errors/*/*.jsonl"))) == 1


# --- conversations


def test_concurrent_rollouts_of_one_goal_stay_apart(between: Callable[..., Any]) -> None:
    with between(two_reads) as (recorder, _), ThreadPoolExecutor(8) as pool:
        client = recorder.client()
        list(pool.map(lambda n: play(client, "the same goal", stream=n % 2 == 0), range(8)))
    traces = recorder.traces()
    assert (
        sorted(trace.rollout or 0 for trace in traces) == list(range(8)) and len({trace.task for trace in traces}) == 1
    )
    assert all([turn.turn_class for turn in trace.turns] == ["ok", "ok", "final"] for trace in traces)


def test_branches_and_edits_start_a_rollout_and_shortened_replies_do_not(between: Callable[..., Any]) -> None:
    texts = iter(["<think>hm</think> first \n", "second", "third", "fourth", "fifth"])
    with between(lambda body: said(next(texts))) as (recorder, _):
        client, opening = recorder.client(), [SYSTEM, user("go")]
        ask(client, opening)
        shortened = [*opening, {"role": "assistant", "content": "first"}, user("and?")]
        ask(client, shortened)
        ask(client, opening)  # a second sample
        ask(client, [*shortened, {"role": "assistant", "content": "not what it said"}, user("and?")])  # an edit
        ask(client, [SYSTEM, user("go, edited")])
    traces = recorder.traces()
    assert sorted(len(trace.turns) for trace in traces) == [1, 1, 1, 2]
    longest = max(traces, key=lambda trace: len(trace.turns))
    assert (
        longest.turns[0].text == "<think>hm</think> first \n"
        and longest.turns[0].reply.content == longest.turns[0].text
    )
    assert not longest.turns[0].sent_back
    assert [m.content for m in longest.turns[1].context] == ["You fix code.", "go", "first", "and?"]


def test_a_bad_reply_that_the_agent_throws_away_is_counted(between: Callable[..., Any]) -> None:
    replies = iter([said("no call at all"), said(calls=[("read", {})]), said(calls=[("read", {"path": "a"})])])
    with between(lambda body: next(replies)) as (recorder, _):
        client, messages = recorder.client(), [SYSTEM, user("go")]
        for complaint in ("call a tool", "path is missing", ""):
            ask(client, messages)
            messages = [*messages, user(complaint)]
    (trace,) = recorder.traces()
    assert [turn.turn_class for turn in trace.turns] == ["no_call", "missing_arg", "ok"]
    assert [m.role for m in trace.turns[2].context] == ["system", "user", "user", "user"]


def test_other_tools_are_another_rollout(between: Callable[..., Any]) -> None:
    with between(two_reads) as (recorder, _):
        client = recorder.client()
        messages = play(client, "go", turns=1)
        ask(client, messages, tools=[{**READ, "function": {**READ["function"], "description": "other"}}])
    assert [len(trace.turns) for trace in recorder.traces()] == [1, 1]


# --- names, marks, tasks


def test_marks_by_call_and_by_header(between: Callable[..., Any]) -> None:
    with between(two_reads, task_from="name") as (recorder, _):
        play(recorder.client(default_headers={"X-Repo-Agent-Rollout": "alpha"}), "go")
        play(recorder.client(default_headers={"X-Repo-Agent-Rollout": "beta", "X-Repo-Agent-Passed": "false"}), "go")
        play(recorder.client(), "go, unnamed")
        assert recorder.post("/_repo_agent/mark", {"conversation": "alpha", "passed": True})[0] == 200
        with urllib.request.urlopen(recorder.url.removesuffix("/v1") + "/_repo_agent/conversations") as answer:
            assert [row["conversation"].split("-")[0] for row in json.load(answer)["conversations"]] == ["beta/0", "go"]
        assert recorder.post("/_repo_agent/mark", {"conversation": "alpha", "passed": True})[0] == 404
        assert recorder.post("/_repo_agent/mark", {"conversation": "beta"})[0] == 400
        assert recorder.post("/_repo_agent/mark", b"\xff")[0] == 400
    passed = {trace.task.split("-")[0]: trace.passed for trace in recorder.traces()}
    assert passed == {"alpha": True, "beta": False, "go": None}
    assert inventory([recorder.out])["kept"] == 3


def test_what_nobody_marked_is_dropped_and_counted(
    between: Callable[..., Any], tmp_path: Path, tiny_base: Path
) -> None:
    with between(two_reads, task_from="name") as (recorder, _):
        for name, more in [("good", {"X-Repo-Agent-Passed": "true"}), ("unknown", {})]:
            play(recorder.client(default_headers={"X-Repo-Agent-Rollout": name, **more}), f"go, {name}")

    def build_it(name: str, **options: Any) -> dict[str, Any]:
        return build(BuildOptions([recorder.out], tokenizer=str(tiny_base), **options), tmp_path / name)

    made = build_it("set", no_split=True)
    assert (made["candidates"], made["funnel"]["run_passed"], made["rows"], made["merged_rows"]) == (6, 3, 3, 1)
    with pytest.raises(UserError, match="records no split"):
        build_it("other")
    split = RecordedSplit(train=("good",), held_out=("unknown",))
    made = build_it("split", suite_split=split)
    assert (made["funnel"]["split"], made["funnel"]["run_passed"], made["rows"]) == (3, 0, 3)


def test_a_task_can_be_read_from_the_goal(between: Callable[..., Any]) -> None:
    with between(two_reads, task_from=r"regex:issue #(\d+)") as (recorder, _):
        play(recorder.client(), "please fix issue #12 today")
    assert recorder.traces()[0].task == "12" and (recorder.out / "traces" / "12" / "0.jsonl").exists()


# --- keys


def test_no_key_is_stored_wherever_it_stood(between: Callable[..., Any], tmp_path: Path) -> None:
    other = "tok_9f8e7d6c5b4a"
    script = iter([said(f"you sent {other}"), {"status": 401, "body": {"error": f"bad key {KEY}"}}])
    with between(lambda body: next(script)) as (recorder, _):
        url = f"{recorder.url}/chat/completions?api_key={other}"
        body = {"model": "m", "messages": [user("hi")], "api_key": "vendor-secret-1", "metadata": {"token": KEY}}
        headers = {"Authorization": f"Bearer {KEY}", "api-key": other, "Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(
                urllib.request.Request(url, json.dumps({**body, "messages": [user("again")]}).encode(), headers)
            )
    stored = b"".join(path.read_bytes() for path in recorder.out.rglob("*") if path.is_file())
    assert (
        not [key for key in (KEY, other, "vendor-secret-1") if key.encode() in stored] and b"you sent [key]" in stored
    )


def test_a_key_at_the_cut_in_a_goal_and_in_a_tools_schema(between: Callable[..., Any]) -> None:
    with between(lambda body: {"status": 500, "body": {"error": "x" * 260 + KEY}}) as (recorder, _):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {KEY: {}}}}}
        for goal in (f"log in with {KEY}", "another"):
            with pytest.raises(openai.OpenAIError):
                ask(recorder.client(), [user(goal)], tools=[tool])
    files = [path for path in recorder.out.rglob("*") if path.is_file()]
    stored = " ".join([*map(str, files), *(path.read_text() for path in files)]).lower()
    assert len(files) > 2 and not [size for size in range(8, len(KEY)) if KEY[:size].lower() in stored]


@pytest.mark.parametrize(
    ("headers", "url", "body"),
    [
        ({"Authorization": "Bearer correct-horse"}, "http://h/", {}),
        ({"apikey": "correct-horse"}, "http://h/", {}),
        ({"X-Vendor-Auth": "correct-horse"}, "http://h/", {}),
        ({"Cookie": "a=correct-horse; b=c"}, "http://h/", {}),
        ({"Authorization": "Basic bWU6Y29ycmVjdC1ob3JzZQ=="}, "http://h/", {}),
        ({}, "http://h/?code=correct-horse", {}),
        ({}, "http://h/", {"extra": [{"api_key": "correct-horse"}]}),
    ],
)
def test_where_a_request_carries_keys(headers: dict[str, str], url: str, body: dict[str, Any]) -> None:
    assert "correct-horse" in secrets_of(headers, url, body)


def test_what_a_conversation_is_about_is_no_key() -> None:
    for name in ("X-Session", "X-Credentials", "Signature", "X-PAT", "X-JWT"):
        assert secrets_of({name: "correct-horse"}, "http://h/", {}) == {"correct-horse"}
    for name in ("access_key_id", "accessToken", "X-Amz-Credential", "AWSAccessKeyId"):
        assert secrets_of({}, f"http://h/?{name}=correct-horse", {}) == {"correct-horse"}
        assert secrets_of({}, "http://h/", {name: "correct-horse"}) == {"correct-horse"}
    for before in ("", "a", "me:", "user:"):
        packed = base64.b64encode(f"{before}{KEY}{before}".encode()).decode()
        assert redacted(packed, {KEY}).count("[key]") == 1 and packed[8:24] not in redacted(packed, {KEY})
    assert not secrets_of({}, "http://h/", {"messages": [{"key": "correct-horse"}], "tools": [{"key": "an-argument"}]})


def test_a_key_is_known_in_every_dress() -> None:
    key = "AbC/dEf+gh1234"
    told = json.dumps({"a": f"x\n{key}", "b": "AbC%2fdEf%2bgh1234", "c": "AbC%2FdEf%2Bgh1234"}) + key.replace(
        "/", "\\/"
    )
    assert redacted(told, [key]) == '{"a": "x\\n[key]", "b": "[key]", "c": "[key]"}[key]'
    assert redacted(json.dumps("x\nsk-proj-abcdefgh1234567890abcd"), ()) == '"x\\n[key]"'
    assert redacted("abcdefgh1-2345678", ["abcdefgh1", "abcdefgh1-2345678"]) == "[key]"
    names = "gsk_render_node_get_node_type hf_model_name_or_path"
    assert redacted(names, ()) == names
    headers = {"x-portkey-provider": "anthropic-1", "X-Author": "ben-jamin", "Authorization": "Basic ü"}
    assert not secrets_of(headers, "http://h/?language_code=en-GB-oxendict", {"prompt_cache_key": "calculator-1"})


def test_plain_words_are_no_keys_and_urls_are_bared() -> None:
    assert secrets_of({"Authorization": "Bearer none", "api-key": "EMPTY"}, "http://h/?token=dummy", {}) == frozenset()
    assert secrets_of({}, "https://me:pass1word@h/v1", {}) == {"pass1word"}
    assert bare("https://me:pass1word@h:81/v1?key=x#y") == "https://h:81/v1"
    assert redacted({"a": ["x hunter22x", 1]}, ["hunter22"]) == {"a": ["x [key]x", 1]}


# --- the process


COMMAND = [sys.executable, "-m", "repo_agent.cli", "record", "--port", "0"]


def started(server: Upstream, out: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [*COMMAND, "--upstream", server.url, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "http://" in line:
            return process, next(word for word in line.replace(";", " ").split() if word.startswith("http://"))
    raise AssertionError("did not start")


def test_a_kill_loses_no_exchange_and_the_next_start_finishes_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with upstream(two_reads) as server:
        process, url = started(server, out)
        client = openai.OpenAI(base_url=url, api_key=KEY)
        play(client, "first")
        play(client, "second", turns=1, extra_headers={"X-Repo-Agent-Passed": "true"})
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = sorted(out.glob("traces/*/*.part"))
        assert len(parts) == 2 and not read_traces([out])[0]
        with parts[0].open("a") as torn:
            torn.write('{"v":1,"kind":"llm_act')
        process, url = started(server, out)
        play(openai.OpenAI(base_url=url, api_key=KEY), "first")
        process.send_signal(signal.SIGTERM)
        said_, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "1 rollouts" in said_
    traces, problems = read_traces([out])
    assert sorted((trace.task[:6], trace.rollout, trace.ended, trace.passed, len(trace.turns)) for trace in traces) == [
        ("first-", 0, "final", None, 3), ("first-", 1, "final", None, 3), ("second", 0, "killed", True, 1),
    ]  # fmt: skip
    assert not problems and not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"upstream": "ftp://u:secret1234@x/v1"}, "no http"),
        ({"upstream": "https://u:secret1234@x/v1"}, "holds a user"),
        ({"upstream": "https://x/v1?key=secret1234"}, "holds a user, a query"),
        ({"task_from": "moon"}, "--task-from"),
        ({"task_from": "regex:("}, "regular expression"),
        ({"tools": Path("/nowhere.json")}, "tool schemas"),
        ({"port": 1}, "--port"),
    ],
)
def test_bad_options_are_one_clear_line_and_write_nothing(tmp_path: Path, options: dict[str, Any], what: str) -> None:
    if options.get("port") == 1 and os.geteuid() == 0:
        options = {"port": 70000}
    words = {
        "upstream": "http://127.0.0.1:1/v1",
        "out": tmp_path / "run",
        "port": 0,
        "tools": None,
        "task_from": "goal",
    }
    with pytest.raises(UserError, match=what) as caught:
        asyncio.run(
            serve(RecordOptions(**{**words, **options}), lambda url, n: None, lambda a, b: None, asyncio.Event().wait)
        )
    assert "secret1234" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_trace_that_cannot_be_written_stops_no_reply(between: Callable[..., Any]) -> None:
    with between(two_reads) as (recorder, _):
        (recorder.out / "traces").write_text("in the way")
        assert ask(recorder.client(), [user("x")])["content"] == "look 0"
    assert recorder.warnings and "not recorded" in recorder.warnings[0]


def test_show_reads_a_recorded_trace(between: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    from repo_agent.cli.show import Show

    with between(two_reads) as (recorder, _):
        play(recorder.client(), "mend [it]")
    Show().trace(read_trace(recorder.traces()[0].path))
    told = capsys.readouterr().out
    assert "mend [it]" in told and "read(path='0.py')" in told and "not graded" in told and "contents of" in told


@pytest.mark.slow
def test_no_reply_that_an_agent_has_seen_is_lost_to_any_kill(tmp_path: Path) -> None:
    out, count, random_ = tmp_path / "run", itertools.count(), random.Random(0)
    seen: set[str] = set()

    def agent(url: str, name: int) -> None:
        client, messages = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0), [SYSTEM, user(f"goal {name}")]
        with contextlib.suppress(openai.OpenAIError, OSError, RuntimeError):
            while True:
                reply = ask(client, messages, stream=name % 2 == 0)
                seen.add(reply["content"])
                messages += [reply, {"role": "tool", "tool_call_id": "call_0", "content": "seen"}]

    with upstream(lambda body: said(f"reply-{next(count)}", [("read", {"path": "a"})], drip=0.001)) as server:
        for _ in range(6):
            process, url = started(server, out)
            with ThreadPoolExecutor(4) as pool:
                for name in range(4):
                    pool.submit(agent, url, name)
                wanted, deadline = len(seen) + random_.randint(5, 25), time.monotonic() + 120
                while len(seen) < wanted and time.monotonic() < deadline:
                    time.sleep(random_.uniform(0.001, 0.02))
                process.send_signal(signal.SIGKILL)
                process.communicate()
        process, _ = started(server, out)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    traces, problems = read_traces([out])
    recorded = [turn.reply.content for trace in traces for turn in trace.turns if turn.turn_class == "ok"]
    assert len(seen) >= 30 and seen <= set(recorded) and len(recorded) == len(set(recorded))
    assert not problems and not list(out.rglob("*.part")) and {trace.ended for trace in traces} == {"killed"}


def test_what_was_not_checked_is_counted() -> None:
    from repo_agent.messages import spoken
    from repo_agent.record.verdict import Judge, Tally
    from repo_agent.record.wire import read_request

    schema = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    tally = Tally()
    asked = read_request({"messages": [], "tools": [{"function": {"name": "f", "parameters": schema}}]})
    assert asked
    judge = Judge(tally, asked, "native", None)
    call = spoken("", [{"name": "f", "arguments": '{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}'}])
    assert judge.verdict(call, "stop").turn_class == "ok"
    assert tally.line() == "validity so far 100.0% of 1 turns (1 ok; 1 calls without pattern checked)"
