"""The same weights behind `transformers serve` and in this process say the same, turn for turn.

Skips where fastapi and uvicorn are not installed; they are no dependency of this package.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repo_agent.chat.tokenizer import TINY
from repo_agent.rollout.live import EvalOptions, run_eval

pytestmark = pytest.mark.slow


@pytest.fixture
def served() -> Iterator[str]:
    """The base URL of a server of the tiny model."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", TINY, "--device", "cpu", "--dtype", "float32"]
    server = subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        _wait(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server does not start")


def turns(run: Path) -> dict[str, list[Any]]:
    """Task → class, text, prompt and reply tokens of every turn."""
    keys = ("turn_class", "text", "prompt_tokens", "completion_tokens")
    return {
        path.parent.name: [
            [event[key] for key in keys]
            for event in map(json.loads, path.read_text().splitlines())
            if event["kind"] == "llm_action"
        ]
        for path in run.glob("traces/*/*.jsonl")
    }


def test_a_server_and_this_process_play_the_same_greedy_turns(served: str, tmp_path: Path) -> None:
    for name, model in (("served", f"openai:{TINY}@{served}"), ("local", "local:tiny")):
        run_eval(EvalOptions(suite="micro", split="held-out", held_out=2, model=model, out=tmp_path / name,
                             temperature=0.0, max_tokens=512, jobs=1, tests="never"))  # fmt: skip
    assert turns(tmp_path / "served") == turns(tmp_path / "local") and len(turns(tmp_path / "local")) == 2
