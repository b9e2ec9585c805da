"""Milliseconds that `repo-agent record` adds to a request, over a scripted server on loopback.

    python benchmarks/record_latency.py [--conversations N]

The client is the plain OpenAI SDK in this process; server and recorder are processes of their own. Conversations of 20
turns, each turn with a tool's answer of 2,000 characters, are sent straight to the server and through the recorder by
turns, whole and streamed. Each pair of requests is the same; the added time is the difference of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TURNS, OUTPUT = 20, "x = 1\n" * 333
TOOL = {
    "type": "function",
    "function": {
        "name": "read",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


def serve() -> None:
    """The scripted server: one call a turn, at once."""
    from aiohttp import web

    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.py"}'}}
    message = {"role": "assistant", "content": "I look at it.", "tool_calls": [call]}

    async def answer(request: web.Request) -> web.StreamResponse:
        head = {"id": "1", "created": 1, "model": "m"}
        if not (await request.json()).get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return web.json_response({**head, "object": "chat.completion", "choices": [choice]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for delta, finish in ((message, None), ({}, "tool_calls")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application(client_max_size=0)
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)


def timed(client: Any, messages: list[dict[str, Any]], stream: bool) -> float:
    """Milliseconds of one request, to the end of its reply."""
    started = time.perf_counter()
    answer = client.chat.completions.create(model="m", messages=messages, tools=[TOOL], stream=stream)
    if stream:
        for _ in answer:
            pass
    return 1000 * (time.perf_counter() - started)


def conversation(clients: list[Any], number: int, stream: bool) -> list[list[float]]:
    """Milliseconds of each turn, for each client."""
    taken: list[list[float]] = [[] for _ in clients]
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"conversation {number}, stream {stream}"}]
    call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.py"}'}}
    for turn in range(TURNS):
        order = list(enumerate(clients))
        for place, client in order if turn % 2 else order[::-1]:
            taken[place].append(timed(client, messages, stream))
        messages.append({"role": "assistant", "content": "I look at it.", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": "c", "content": f"{turn}\n{OUTPUT}"})
    return taken


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(client: Any) -> None:
    from openai import APIConnectionError, InternalServerError

    for _ in range(200):
        try:
            timed(client, [{"role": "user", "content": "up?"}], False)
            return
        except (APIConnectionError, InternalServerError):
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency that recording adds.")
    parser.add_argument("--conversations", type=int, default=5)
    options = parser.parse_args()
    from openai import OpenAI

    server_port, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["-m", "repo_agent.cli", "record", "--port", str(port), "--out", str(out)]
        upstream = f"http://127.0.0.1:{server_port}/v1"
        recorder = [sys.executable, *words, "--upstream", upstream]
        processes = [
            subprocess.Popen([sys.executable, __file__, "--serve", str(server_port)]),
            subprocess.Popen(recorder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        ]
        try:
            clients = [
                OpenAI(base_url=url, api_key="none", max_retries=0) for url in (upstream, f"http://127.0.0.1:{port}/v1")
            ]
            for client in clients:
                wait_for(client)
            print(f"{options.conversations} conversations of {TURNS} turns each way, {os.cpu_count()} cores; ms a turn")
            print(f"{'':10}{'direct':>9}{'recorded':>10}{'added':>8}{'p95 direct':>12}{'p95 recorded':>14}")
            for stream in (False, True):
                report("streamed" if stream else "whole", clients, options.conversations, stream)
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()
        rollouts = [path.read_bytes().count(b'"kind":"llm_action"') for path in out.glob("traces/*/*.jsonl")]
        assert sorted(rollouts)[1:] == [TURNS] * 2 * options.conversations, rollouts
        print(f"{len(rollouts) - 1} rollouts of {TURNS} turns recorded, whole")


def report(name: str, clients: list[Any], conversations: int, stream: bool) -> None:
    runs = [conversation(clients, number, stream) for number in range(conversations)]
    direct, recorded = ([ms for run in runs for ms in run[place]] for place in (0, 1))
    medians, tails = [[f(v) for v in (direct, recorded)] for f in (statistics.median, p95)]
    print(f"{name:10}{medians[0]:9.2f}{medians[1]:10.2f}{medians[1] - medians[0]:8.2f}{tails[0]:12.2f}{tails[1]:14.2f}")


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main()
