"""Wires as they are: streams that servers number in many ways, bodies of every packing, agents that repair what they
send back. One conversation each, calls as the client sees them."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import tracemalloc
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_record import READ, Recorder, user

from repo_agent.data.inventory import inventory
from repo_agent.data.trajectories import trajectories_of
from repo_agent.messages import call_ids
from repo_agent.record.bodies import MAX_BODY, decoded
from repo_agent.record.stream import read_stream
from repo_agent.record.wire import names_and_arguments
from repo_agent.tools.registry import Registry

pytest.importorskip("aiohttp")
STREAMS = Path(__file__).parent / "fixtures" / "streams"
TOTAL = {
    "arguments-object": [[("read_file", {"path": "total.py"})]],
    "content-parts-in-delta": [[("read_file", {"path": "total.py"})]],
    "name-in-every-chunk": [[("read_file", {"path": "total.py"})]],
    "no-finish-reason": [[("read_file", {"path": "total.py"})]],
    "parallel-calls-share-index-0": [[("read_file", {"path": "a.py"}), ("read_file", {"path": "b.py"})]],
    "results-out-of-order": [
        [("read_file", {"path": "a.py"}), ("read_file", {"path": "b.py"})],
        [("read_file", {"path": "c.py"})],
    ],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


class Raw:
    """A server that answers request n with reply n as it is: body, content type, content encoding."""

    def __init__(self, *replies: tuple[bytes, str, str]) -> None:
        self.replies, self.seen, self.url = replies, list[tuple[dict[str, str], bytes]](), ""

    @contextmanager
    def up(self) -> Iterator[Raw]:
        raw = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                raw.seen.append((dict(self.headers), body))
                data, kind, encoding = raw.replies[min(len(raw.seen), len(raw.replies)) - 1]
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                if encoding:
                    self.send_header("Content-Encoding", encoding)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def sse(*chunks: dict[str, Any], done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def delta(finish: Any = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def part(**fields: Any) -> dict[str, Any]:
    return delta(tool_calls=[fields])


def calls_in(*chunks: dict[str, Any]) -> list[tuple[Any, Any]]:
    return names_and_arguments(read_stream(sse(*chunks)).calls)


@pytest.mark.parametrize("name", TOTAL)
def test_a_stream_is_one_conversation_with_the_calls_that_the_client_saw(name: str, tmp_path: Path) -> None:
    scenario = json.loads((STREAMS / f"{name}.json").read_text())
    bodies = ["".join(f"{line}\n\n" for line in reply).encode() for reply in scenario["replies"]]
    with (
        Raw(*((body, "text/event-stream", "") for body in bodies)).up() as raw,
        Recorder(tmp_path / "run", raw.url) as recorder,
    ):
        messages = [user("Why does total() fail?")]
        for wanted in TOTAL[name]:
            post(recorder, messages)
            ids = [f"c{len(messages)}_{n}" for n in range(len(wanted))]
            functions = [{"name": tool, "arguments": json.dumps(args)} for tool, args in wanted]
            text = "I read the file." if name.startswith("content") else None
            sent = [{"id": i, "type": "function", "function": f} for i, f in zip(ids, functions, strict=True)]
            messages.append({"role": "assistant", "content": text, "tool_calls": sent})
            answers = [
                {"role": "tool", "tool_call_id": i, "content": f"text of {args['path']}"}
                for i, (_, args) in zip(ids, wanted, strict=True)
            ]
            messages += reversed(answers) if "order" in name else answers
        post(recorder, messages)
    (trace,) = recorder.traces()
    assert [turn.turn_class for turn in trace.turns] == ["ok"] * len(TOTAL[name]) + ["final"]
    said = [[(call.name, call.args) for call in turn.calls] for turn in trace.turns[:-1]]
    assert said == TOTAL[name] and trace.turns[-1].text == "It returns nothing."
    context = trace.turns[-1].context
    for message, _, answered in call_ids(context):
        if message.role == "tool":
            called = next(c for m in context for c in m.tool_calls if c.id == answered)
            assert message.content == f"text of {called.args['path']}"
    (trajectory,) = trajectories_of(trace, Registry.from_openai([TOOL]))
    assert [label.turn_class for label in trajectory.turns] == [turn.turn_class for turn in trace.turns]


def post(recorder: Recorder, messages: list[Any], *, pack: str = "", headers: dict[str, str] | None = None) -> bytes:
    body = json.dumps({"model": "m", "messages": messages, "tools": [TOOL], "stream": True}).encode()
    sent = {"gzip": gzip.compress, "deflate": zlib.compress}.get(pack, bytes)(body)
    more = {"Content-Type": "application/json"} | ({"Content-Encoding": pack} if pack else {}) | (headers or {})
    request = urllib.request.Request(f"{recorder.url}/chat/completions", sent, more)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


A, B = '{"path": "a"}', '{"path": "b"}'
TWO = [("f", {"path": "a"}), ("g", {"path": "b"})]


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([part(id="1", function={"name": "f", "arguments": A}), part(id="2", function={"name": "g", "arguments": B})],
         TWO),
        ([part(function={"name": "f", "arguments": A}), part(function={"name": "g", "arguments": B})], TWO),
        ([part(index=0, function={"name": "f", "arguments": A}),
          part(index=0, function={"name": "g", "arguments": B})], TWO),
        ([part(index=0, id="1", function={"name": "f", "arguments": ""}),
          part(index=1, id="2", function={"name": "g", "arguments": ""}),
          part(index=0, function={"arguments": A}), part(index=1, function={"arguments": B})], TWO),
        ([part(index=0, id="1", function={"name": "f", "arguments": A[:5]}),
          part(index=0, function={"arguments": A[5:]}),
          part(index=0, id="2", function={"name": "g", "arguments": B[:5]}),
          part(index=0, function={"arguments": B[5:]})], TWO),
        ([part(index=1, id="2", function={"name": "f", "arguments": A}),
          part(index=0, id="1", function={"name": "g", "arguments": B})], TWO),
        ([part(index=0, function={"name": "f", "arguments": A[:5]}),
          part(index=0, id="1", function={"arguments": A[5:]})], TWO[:1]),
        ([part(index=0, id="1", function={"name": "f", "arguments": A}),
          part(index=0, id="1", function={"name": "f", "arguments": ""}),
          part(index=0, id="", function={"name": None, "arguments": None})], TWO[:1]),
        ([delta(function_call={"name": "f", "arguments": ""}), delta(function_call={"arguments": A[:3]}),
          delta(function_call={"arguments": A[3:]})], TWO[:1]),
        ([part(id="1", type="custom", custom={"name": "f", "input": "so"}), part(id="1", custom={"input": "me"})],
         [("f", {"input": "some"})]),
        ([part(index=0, id="1", function=None)], [("", {})]),
    ],
)  # fmt: skip
def test_calls_of_a_stream(chunks: list[dict[str, Any]], wanted: list[tuple[str, Any]]) -> None:
    assert calls_in(*chunks, delta("tool_calls")) == wanted


def test_text_thoughts_and_ends_of_a_stream() -> None:
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]}, {"type": "text", "text": "a"}]
    chunks = [delta(reasoning_content="So. "), delta(reasoning="Yes. "), delta(content=thought), delta(content="b")]
    reply = read_stream(sse(*chunks, delta("stop")))
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("ab", "So. Yes. Hm. ", "stop")
    assert read_stream(sse(*chunks)).finish_reason is None
    assert read_stream(sse(*chunks, delta("stop"), done=False)).text == "ab"
    assert read_stream(sse(*chunks).replace(b"\n", b"\r\n")).text == "ab"
    for torn in (sse(*chunks, done=False), sse(*chunks)[:-20], b"", sse({"error": {"message": "x"}})):
        with pytest.raises(ValueError):
            read_stream(torn)


DONE = sse(delta(content="It returns nothing."), delta("stop"))


@pytest.mark.parametrize("label", ["text/event-stream", "application/json", "text/plain"])
def test_a_stream_is_known_by_what_it_holds(label: str, tmp_path: Path) -> None:
    with Raw((DONE, label, "")).up() as raw, Recorder(tmp_path / "run", raw.url) as recorder:
        assert post(recorder, [user("x")]) == DONE
    (trace,) = recorder.traces()
    assert trace.turns[0].text == "It returns nothing." and not recorder.result["failed_replies"]


@pytest.mark.parametrize("pack", ["gzip", "deflate"])
def test_compressed_bodies_are_read_on_a_copy_and_passed_on_as_they_are(pack: str, tmp_path: Path) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[pack](DONE)
    with Raw((packed, "text/event-stream", pack)).up() as raw, Recorder(tmp_path / "run", raw.url) as recorder:
        assert post(recorder, [user("x")], pack=pack) == packed
    headers, body = raw.seen[0]
    assert headers["Content-Encoding"] == pack and json.loads(decoded(body, pack))["messages"] == [user("x")]
    (trace,) = recorder.traces()
    assert trace.turns[0].text == "It returns nothing." and not recorder.result["unrecorded"]


def test_a_small_body_that_unpacks_to_a_large_one_costs_little(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * (8 * MAX_BODY), 9)
    with Raw((bomb, "application/json", "gzip")).up() as raw, Recorder(tmp_path / "run", raw.url) as recorder:
        tracemalloc.start()
        body = urllib.request.Request(f"{recorder.url}/chat/completions", bomb, {"Content-Encoding": "gzip"})
        with urllib.request.urlopen(body, timeout=120) as answer:
            assert answer.read() == bomb
        post(recorder, [user("x")])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert raw.seen[0][1] == bomb and peak < 4 * MAX_BODY
    assert recorder.result["unrecorded"] == {"/v1/chat/completions": 1} and recorder.result["failed_replies"] == 1
    assert decoded(gzip.compress(b"a") + gzip.compress(b"b"), "GZIP") == b"ab"
    for broken in (bomb[:-9], b"x", gzip.compress(b"a") + b"x"):
        with pytest.raises(ValueError):
            decoded(broken, "gzip")


def test_what_passes_unrecorded_is_counted(tmp_path: Path) -> None:
    with Raw((b"{}", "application/json", "")).up() as raw, Recorder(tmp_path / "run", raw.url) as recorder:
        for path in ("responses", "messages", "messages?beta=1", "chat/completions"):
            urllib.request.urlopen(urllib.request.Request(f"{recorder.url}/{path}", b"{}")).read()
    expected = {"/v1/responses": 1, "/v1/messages": 2, "/v1/chat/completions": 1}
    assert recorder.result["unrecorded"] == expected
    assert "4 requests passed unrecorded (2 /v1/messages, " in recorder.result["line"]


def test_headers_that_connection_names_stay_here(tmp_path: Path) -> None:
    with Raw((DONE, "text/event-stream", "")).up() as raw, Recorder(tmp_path / "run", raw.url) as recorder:
        connection = http.client.HTTPConnection(recorder.url.split("/")[2])
        body = json.dumps({"model": "m", "messages": [user("x")]})
        connection.request(
            "POST", "/v1/chat/completions", body, {"Connection": "close, X-Hop", "X-Hop": "1", "X-Kept": "2"}
        )
        connection.getresponse().read()
    names = {name.lower() for name in raw.seen[0][0]}
    assert "x-kept" in names and "x-hop" not in names


def talk(arguments: str, back: str | None, *, id: str = "s1", own: str = "s1") -> list[Any]:
    """A reply with a call, and what its agent sends next: the call with `back` for arguments."""
    call = {"id": id, "type": "function", "function": {"name": "read", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    sent = {**message, "tool_calls": [{**call, "id": own, "function": {"name": "read", "arguments": back}}]}
    return [json.dumps(body).encode(), [sent, {"role": "tool", "tool_call_id": own, "content": "x = 1"}]]


@pytest.mark.parametrize(
    ("arguments", "back", "own", "classes", "kept"),
    [
        ('{"path": "a",}', '{"path": "a"}', "s1", ["json_invalid", "final"], [False, True]),
        ('{"path": "a",}', '{"path": "a"}', "other", ["json_invalid", "final"], [False, True]),
        ('{"path": "a", "n": 1}', '{"path": "a"}', "s1", ["unexpected_arg", "final"], [False, True]),
        ('{"path": "a",}', '{"path": "a",}', "s1", ["json_invalid", "final"], [False, False]),
        ('{"path": "a"}', '{ "path":"a" }', "s1", ["ok", "final"], [True, True]),
    ],
)
def test_an_agent_that_repairs_arguments_keeps_its_conversation(
    tmp_path: Path, arguments: str, back: str, own: str, classes: list[str], kept: list[bool]
) -> None:
    reply, answers = talk(arguments, back, own=own)
    with (
        Raw((reply, "application/json", ""), (DONE, "text/event-stream", "")).up() as raw,
        Recorder(tmp_path / "run", raw.url) as recorder,
    ):
        messages: list[Any] = [user("go")]
        for more in (answers, []):
            body = json.dumps({"model": "m", "messages": messages, "tools": [READ]}).encode()
            urllib.request.urlopen(urllib.request.Request(f"{recorder.url}/chat/completions", body)).read()
            messages = [*messages, *more]
    (trace,) = recorder.traces()
    (trajectory,) = trajectories_of(trace, Registry.from_openai([READ]))
    assert [label.turn_class for label in trajectory.turns] == classes
    assert inventory([recorder.out])["turns"] == dict.fromkeys(classes, 1)
    assert trace.turns[0].text and json.loads(trace.turns[0].text)["tool_calls"][0]["arguments"] == arguments
    clean = [label.turn_class in ("ok", "final") and not label.broken_context for label in trajectory.turns]
    assert clean == kept


def test_a_result_without_its_call_and_a_call_that_is_no_object_are_in_no_row(tmp_path: Path) -> None:
    from repo_agent.data.build import BuildOptions, build
    from repo_agent.record.importers import import_logs

    def call(arguments: Any) -> dict[str, Any]:
        function = {"name": "read", "arguments": arguments}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        }

    result, end = {"role": "tool", "tool_call_id": "c", "content": "x"}, {"role": "assistant", "content": "done"}
    talks: list[list[Any]] = [
        [user("a"), call('{"path": "a"}'), result, end],
        [user("b"), call('{"path":'), result, call('{"path": "a"}'), result, end],
        [user("c"), call("[1]"), result, end],
        [user("d"), result, call('{"path": "a"}'), result, end],
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"messages": one, "tools": [READ]}) + "\n" for one in talks))
    import_logs("openai", log, tmp_path / "run", passed=True)
    build(BuildOptions([tmp_path / "run"], no_split=True), tmp_path / "data")
    gates = json.loads((tmp_path / "data" / "funnel.json").read_text())["gates"]
    found = {entry["gate"]: entry["dropped"] for entry in gates if entry["dropped"]}
    assert found == {"broken_context": 5, "strict_valid": 2}
    rows = [json.loads(line) for line in (tmp_path / "data" / "trajectories.jsonl").open()]
    assert [row["messages"][0]["content"] for row in rows] == ["a"]
