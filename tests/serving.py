"""The benchmarks' scripted chat server as a process of its own, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repo_agent.messages import ToolCall
from repo_agent.protocols import PROTOCOLS

SERVER = Path(__file__).parent.parent / "benchmarks" / "support" / "scripted_server.py"
JSON = PROTOCOLS["json"]
LIST = JSON.render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 50}))
GREP = JSON.render_call(ToolCall("grep", {"pattern": "def ", "rel_dir": ".", "max_hits": 5}))
FINAL = JSON.render_final("done")


@dataclass(frozen=True)
class Served:
    """A running server: how to name its model, and what it was asked."""

    model: str
    log: Path

    def asked(self) -> Counter[str]:
        """`SEED TURN` of each request → how many times."""
        return Counter(self.log.read_text().splitlines())


@contextmanager
def serving(folder: Path, script: Sequence[str] = (LIST, GREP, FINAL), *flags: str) -> Iterator[Served]:
    """A server of its own process that says `script` in every conversation."""
    path, log = folder / "script.json", folder / "requests.log"
    path.write_text(json.dumps(list(script)))
    log.touch()
    command = [sys.executable, str(SERVER), str(path), "--log", str(log), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield Served(f"openai:scripted@http://127.0.0.1:{int(server.stdout.readline())}/v1", log)
        finally:
            server.kill()
