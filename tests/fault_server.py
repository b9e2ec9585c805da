"""A server of chat completions on loopback that fails in every way that servers do, when told to.

    with FaultServer(answer) as server:  # answer(body, seen) -> a reply by `said`, or the name of a fault
        OpenAIChat("any", server.url)

`seen` counts the earlier requests with the very same body: retries.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from repo_agent.messages import digest

Answer = Callable[[dict[str, Any], int], "dict[str, Any] | str"]
TRANSIENT = (
    "429",
    "500",
    "503",
    "hang",
    "half a body",
    "invalid JSON",
    "reset",
    "empty choices",
    "wrong content type",
    "slow drip",
)
"""Faults that another try may cure. Any other name of digits is answered as that status."""


def said(
    content: str | None = "",
    calls: list[tuple[str, Any]] | None = None,
    *,
    finish: str | None = None,
    prompt: int = 7,
    tokens: int = 3,
    usage: Any = "whole",
) -> dict[str, Any]:
    """A whole answer; `calls` are (name, arguments), arguments as they shall stand on the wire; `usage` as it shall."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": f"x{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(calls)
        ]
    choice = {"index": 0, "finish_reason": finish or ("tool_calls" if calls else "stop"), "message": message}
    if usage == "whole":
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "served-model", "choices": [choice],
            "usage": usage, "system_fingerprint": "fp_7"}  # fmt: skip


@dataclass
class FaultServer:
    """Runs in a thread of its own. `asked` holds (time, body, key) of every request, in order."""

    answer: Answer
    retry_after: str = "0.05"
    error: dict[str, Any] = field(default_factory=lambda: {"message": "told to fail"})
    """The error that statuses of 400 and more carry; {key} in its message becomes the key that was sent."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """What the list of models holds; empty: the server has none."""
    asked: list[tuple[float, dict[str, Any], str]] = field(default_factory=list)
    listed: int = 0
    """How often the list of models was asked for."""
    faults: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            self._seen: Counter[str] = Counter()
            server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=512)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            ready.set()
            await self._stop.wait()
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection lives on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("get "):
            self.listed += 1
            return await _send(writer, 200 if self.models else 404, json.dumps({"data": self.models}))
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        key = headers.get("authorization", "").removeprefix("bearer ")
        self.asked.append((time.monotonic(), body, key))
        told = self.answer(body, self._seen[digest(body)])
        self._seen[digest(body)] += 1
        if not isinstance(told, str):
            return await _send(writer, 200, json.dumps(told))
        self.faults[told] += 1
        if told in _FAULTS:
            return await _FAULTS[told](writer)
        error = {**self.error, "message": self.error["message"].replace("{key}", key)}
        extra = f"Retry-After: {self.retry_after}\r\n" if told == "429" else ""
        return await _send(writer, int(told), json.dumps({"error": error}), extra=extra)


async def _send(
    writer: asyncio.StreamWriter, status: int, text: str, kind: str = "application/json", extra: str = ""
) -> bool:
    data = text.encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{extra}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return True


async def _hang(writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(60)
    return False


async def _half(writer: asyncio.StreamWriter) -> bool:
    data = json.dumps(said("half")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data[: len(data) // 2])
    await writer.drain()
    return False


async def _reset(writer: asyncio.StreamWriter) -> bool:
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _drip(writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{")
    for _ in range(1200):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)
    return False


_FAULTS: dict[str, Callable[[asyncio.StreamWriter], Awaitable[bool]]] = {
    "hang": _hang,
    "half a body": _half,
    "invalid JSON": lambda writer: _send(writer, 200, '{"choices": ['),
    "reset": _reset,
    "empty choices": lambda writer: _send(writer, 200, '{"choices": []}'),
    "wrong content type": lambda writer: _send(writer, 200, "<h1>Welcome</h1>", "text/html"),
    "slow drip": _drip,
    "context overflow": lambda writer: _send(writer, 400, '{"error": {"code": "context_length_exceeded"}}'),
}
