"""Inspect AI on the benchmark's script: its react agent, its mock model, four tools of Python, its log on disk.

    PYTHON benchmarks/support/peer_inspect.py SCRIPT.json ROLLOUTS     (an environment that has inspect-ai)

SCRIPT.json holds [tool, arguments] of each turn but the last, which submits. Prints processor milliseconds a step: many
samples, one at a time, less one sample, so that start-up is left out.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.agent import react
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.tool import tool

CALLS = json.loads(Path(sys.argv[1]).read_text())
ROOT = Path(tempfile.mkdtemp())
for name, text in json.loads(Path(sys.argv[1]).with_name("files.json").read_text()).items():
    (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / name).write_text(text)


@tool
def list_files():
    async def execute(rel_dir: str, max_files: int) -> str:
        """List files.

        Args:
            rel_dir: Folder.
            max_files: Most files.
        """
        return "\n".join(str(path.relative_to(ROOT)) for path in (ROOT / rel_dir).rglob("*"))

    return execute


@tool
def read_file():
    async def execute(rel_path: str, max_chars: int) -> str:
        """Read a file.

        Args:
            rel_path: File.
            max_chars: Most characters.
        """
        return (ROOT / rel_path).read_text()[:max_chars]

    return execute


@tool
def grep():
    async def execute(pattern: str, rel_dir: str, max_hits: int) -> str:
        """Search files.

        Args:
            pattern: What to look for.
            rel_dir: Folder.
            max_hits: Most lines.
        """
        files = [path for path in (ROOT / rel_dir).rglob("*") if path.is_file()]
        return "\n".join(line for path in files for line in path.read_text().splitlines() if pattern in line)

    return execute


@tool
def write_file():
    async def execute(rel_path: str, content: str) -> str:
        """Write a file.

        Args:
            rel_path: File.
            content: Its new text.
        """
        (ROOT / rel_path).write_text(content)
        return "written"

    return execute


def spent(samples: int) -> float:
    calls = [*CALLS, ["submit", {"answer": "done"}]]
    outputs = [ModelOutput.for_tool_call("mockllm/model", name, args) for name, args in calls] * samples
    for output in outputs:  # else the mock model counts tokens, with a tokenizer that it downloads
        output.usage = ModelUsage(input_tokens=100, output_tokens=10, total_tokens=110)
    agent = react(tools=[list_files(), read_file(), grep(), write_file()])
    task = Task(dataset=[Sample(input=f"repair it {number}") for number in range(samples)], solver=agent)
    started = time.process_time()
    model = get_model("mockllm/model", custom_outputs=outputs)
    with tempfile.TemporaryDirectory() as folder:
        [log] = eval(task, model=model, log_dir=folder, display="none", max_samples=1)
    assert log.status == "success", log.error
    return time.process_time() - started


times = int(sys.argv[2])
spent(1)
steps = times * (len(CALLS) + 1)
figure = 1000 * (spent(times + 1) - spent(1)) / steps
print(json.dumps({"cpu_ms": figure, "version": version("inspect-ai")}))
