"""An OpenAI-compatible chat server in one process that says a script: reply n to a conversation of n assistant turns.

    python benchmarks/support/scripted_server.py SCRIPT.json [--latency 2] [--log FILE] [--no-usage]

SCRIPT.json is a list of texts; a longer conversation gets the last. The port is printed on stdout. The log has a line a
request: the request's seed and the reply's number. Token counts are made up: a quarter of the bytes of the messages'
contents, and of the reply's. Below /fast/v1 it answers without the latency, for warming up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import IO


class Server:
    """One script, one latency."""

    def __init__(self, script: list[str], latency: float, log: IO[str] | None, usage: bool) -> None:
        self.script, self.latency, self.log, self.usage = script, latency, log, usage

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after another."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                if not head.startswith(b"POST /fast/"):
                    await asyncio.sleep(self.latency)
                writer.write(self.answer(json.loads(body)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, body: dict) -> bytes:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        text = self.script[min(turn, len(self.script) - 1)]
        if self.log:
            self.log.write(f"{body.get('seed')} {turn}\n")
        record = {
            "id": "scripted",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        }
        if self.usage:
            prompt = sum(len(str(message["content"]).encode()) for message in body["messages"]) // 4
            reply = max(1, len(text.encode()) // 4)
            record["usage"] = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
        data = json.dumps(record).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("script", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--no-usage", action="store_true")
    options = parser.parse_args()
    log = options.log.open("a", buffering=1) if options.log else None
    server = Server(json.loads(options.script.read_text()), options.latency, log, not options.no_usage)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024, limit=2**24)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit()
