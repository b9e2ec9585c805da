"""A scripted OpenAI-compatible server on loopback, for tests and benchmarks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[dict[str, Any]], dict[str, Any]]
"""From a request's body to `{"text", "calls", "finish", "status", "body", "pause", "cut"}`, all optional."""


def said(text: str = "", calls: Sequence[tuple[str, Any]] = (), **more: Any) -> dict[str, Any]:
    """A reply; arguments that are no text become JSON."""
    listed = [(name, args if isinstance(args, str) else json.dumps(args)) for name, args in calls]
    return {"text": text, "calls": listed, **more}


class Upstream:
    """What the server saw: every request's method, path, headers and raw body; and its base URL."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.sent: list[bytes] = []
        self.url = ""


@contextmanager
def upstream(script: Script) -> Iterator[Upstream]:
    """The server, up."""
    record = Upstream(script)

    class Handler(_Handler):
        state = record

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    record.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield record
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Upstream
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._see()
        self._whole(200, json.dumps({"object": "list", "path": self.path}).encode())

    def do_POST(self) -> None:
        body = self._see()
        if not self.path.split("?")[0].endswith("/chat/completions"):
            self._whole(200, b"echo:" + body)
            return
        request = json.loads(body)
        reply = self.state.script(request)
        if reply.get("pause"):
            time.sleep(reply["pause"])
        if "raw" in reply:
            self._whole(200, reply["raw"].encode())
        elif "status" in reply:
            self._whole(reply["status"], json.dumps(reply.get("body", {})).encode())
        elif request.get("stream"):
            self._stream(reply)
        else:
            self._whole(200, json.dumps(completion(reply)).encode())

    def _see(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.state.seen.append((self.command, self.path, dict(self.headers), body))
        return body

    def _whole(self, status: int, body: bytes) -> None:
        self.state.sent.append(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _stream(self, reply: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        whole = b""
        for number, chunk in enumerate(chunks(reply)):
            if reply.get("cut") == number:
                break
            self.wfile.write(chunk)
            self.wfile.flush()
            whole += chunk
            time.sleep(reply.get("drip", 0))
        self.state.sent.append(whole)
        self.close_connection = True


def completion(reply: dict[str, Any]) -> dict[str, Any]:
    """A whole chat completion."""
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(reply.get("calls", ()))
    ]
    message = {"role": "assistant", "content": reply.get("text") or None, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply)}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "scripted"}
    return {**head, "choices": [choice], "usage": usage}


def chunks(reply: dict[str, Any]) -> Iterator[bytes]:
    """The same as server-sent events: text word by word, arguments in two pieces, usage at the end."""
    for word in reply.get("text", "").split(" "):
        if reply.get("text"):
            yield _event({"content": word if word is reply["text"].split(" ")[0] else " " + word})
    for n, (name, arguments) in enumerate(reply.get("calls", ())):
        half = len(arguments) // 2
        head = {"index": n, "id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": ""}}
        yield _event({"tool_calls": [head]})
        for piece in (arguments[:half], arguments[half:]):
            yield _event({"tool_calls": [{"index": n, "function": {"arguments": piece}}]})
    yield _event({}, _finish(reply))
    yield _data({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
    yield b"data: [DONE]\n\n"


def _finish(reply: dict[str, Any]) -> str:
    return str(reply.get("finish") or ("tool_calls" if reply.get("calls") else "stop"))


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return _data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _data(record: dict[str, Any]) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return b"data: " + json.dumps({**head, **record}).encode() + b"\n\n"
