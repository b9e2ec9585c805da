"""Real clients over the recorder: what a row holds is what the client sends next. Live in an environment of their own
(`make test-clients`), and from their frozen wire recordings everywhere.

`WRITE_RECORDINGS=1 make test-clients` freezes the recordings anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_record import Recorder
from upstream import Upstream, said, upstream

from repo_agent.data.trajectories import trajectories_of
from repo_agent.messages import Message
from repo_agent.tools.registry import Registry
from repo_agent.traces.trace import Trace

pytest.importorskip("aiohttp")
HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("CLIENTS_PYTHON", HERE.parent / ".venv-clients" / "bin" / "python"))
RECORDINGS = HERE / "fixtures" / "clients"
CLIENTS = ["openai_agents", "langgraph", "pydantic_ai", "mini_swe_agent"]
SCENARIOS = ["single", "parallel", "malformed"]
CASES = [
    (client, scenario, stream)
    for client in CLIENTS
    for scenario in SCENARIOS
    for stream in ("whole", "stream")
    if (client, stream) != ("mini_swe_agent", "stream")
]


def replies(client: str, scenario: str) -> Iterator[dict[str, Any]]:
    mini = client == "mini_swe_agent"
    name, key = ("bash", "command") if mini else ("read_file", "path")
    first, second = ({key: f"echo text of {file}" if mini else file} for file in ("a.py", "b.py"))
    calls = {
        "single": [[(name, first)], [(name, second)]],
        "parallel": [[(name, first), (name, second)]],
        "malformed": [[(name, json.dumps(first)[:-1])], [(name, first)]],
    }
    # In a stream pydantic-ai takes the first text for the end.
    text = "I look." if client != "pydantic_ai" else ""
    yield from (said(text, calls=each, ids=f"call_{place}_") for place, each in enumerate(calls[scenario]))
    end = {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo done"}
    while True:
        yield said("", calls=[("bash", end)], ids="last_") if mini else said("They hold text.")


def sent(message: dict[str, Any]) -> tuple[Any, ...]:
    """A message as it went over the wire, in our own few words."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
        for call in message.get("tool_calls") or []
    ]
    return (
        {"developer": "system"}.get(message["role"], message["role"]),
        content or "",
        calls,
        message.get("tool_call_id") or "",
    )


def kept(message: Message) -> tuple[Any, ...]:
    calls = [(call.id, call.name, call.args) for call in message.tool_calls]
    return message.role, message.content, calls, message.tool_call_id


def is_whole(message: dict[str, Any]) -> bool:
    try:
        sent(message)
    except ValueError:
        return False
    return True


def check(traces: list[Trace], requests: list[dict[str, Any]], client: str, scenario: str) -> None:
    """One conversation; each turn's context is the request that it answers, and a row is those of its kept turns."""
    (trace,) = traces
    assert len(trace.turns) == len(requests)
    for turn, request in zip(trace.turns, requests, strict=True):
        for message, raw in zip(turn.context, request["messages"], strict=True):
            assert kept(message) == sent(raw) if is_whole(raw) else not message.tool_calls
    (trajectory,) = trajectories_of(trace, Registry.from_openai(trace.tools))
    classes = [label.turn_class for label in trajectory.turns]
    bad = ["json_invalid"] if scenario == "malformed" else []
    assert classes[: len(bad)] == bad and set(classes[len(bad) :]) <= {"ok", "final"}
    if scenario != "malformed":
        assert len(classes) == {"single": 3, "parallel": 2}[scenario]
        last = requests[-1]["messages"]
        assert [kept(message) for message in trajectory.messages[: len(last)]] == [sent(message) for message in last]
    if scenario == "parallel":
        assert len(trajectory.turns[0].more) == 1


def played(tmp_path: Path, server: Upstream) -> Recorder:
    return Recorder(tmp_path / "run", server.url)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("client", "scenario", "stream"), CASES)
def test_a_live_client(tmp_path: Path, client: str, scenario: str, stream: str) -> None:
    if not PYTHON.exists():
        pytest.skip("the clients are not installed: make test-clients")
    script = replies(client, scenario)
    with upstream(lambda body: next(script)) as server:
        with played(tmp_path, server) as recorder:
            command = [str(PYTHON), str(HERE / "clients" / f"{client}_client.py"), recorder.url, stream]
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
        requests = [json.loads(body) for _, path, _, body in server.seen if path.endswith("/chat/completions")]
    print(done.stdout, done.stderr[-3000:])
    assert done.returncode == 0 or scenario == "malformed", done.stderr[-3000:]
    if os.environ.get("WRITE_RECORDINGS"):
        exchanges = [
            {"request": request, "reply": reply.decode()} for request, reply in zip(requests, server.sent, strict=True)
        ]
        RECORDINGS.mkdir(exist_ok=True)
        (RECORDINGS / f"{client}-{scenario}-{stream}.json").write_text(json.dumps(exchanges, indent=1) + "\n")
    check(recorder.traces(), requests, client, scenario)


@pytest.mark.parametrize(("client", "scenario", "stream"), CASES)
def test_a_frozen_client(tmp_path: Path, client: str, scenario: str, stream: str) -> None:
    exchanges = json.loads((RECORDINGS / f"{client}-{scenario}-{stream}.json").read_text())
    frozen = iter(exchanges)
    with upstream(lambda body: {"raw": next(frozen)["reply"]}) as server, played(tmp_path, server) as recorder:
        for exchange in exchanges:
            body = json.dumps(exchange["request"]).encode()
            request = urllib.request.Request(f"{recorder.url}/chat/completions", body)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.read() == exchange["reply"].encode()
    check(recorder.traces(), [exchange["request"] for exchange in exchanges], client, scenario)
