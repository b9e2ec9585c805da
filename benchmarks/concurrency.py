"""How many rollouts at once: 64 and 256 against a server with 2 s latency, beside a bare AsyncOpenAI loop.

    python benchmarks/concurrency.py [--jobs 64 256] [--turns 8] [--latency 2] [--peers PYTHON]

Every part runs in a process of its own against the same scripted server (another process): `bare` sends, for as many
conversations at once, just the requests that a rollout sends, with a default AsyncOpenAI client; `ours` plays as many
rollouts through `play_all`: workspaces, tools, verdicts and traces on disk. Tests are off: `--tests never`, and the
grade at the end is put in by `Setting.grade` without running anything; all else of a rollout is as `eval` has it.

Processor time is that of the whole process, threads too, over all conversations, after one that does not count; for
ours it holds making and clearing workspaces and writing the index. The least of the rounds counts: other work on the
machine only adds.
PYTHON is an interpreter of a virtual environment that has inspect-ai and mini-swe-agent; without it their figures are
those measured once. Ours and theirs play one rollout after another, with the same calls and replies of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.messages import ToolCall
from repo_agent.models import Completion, Request, Sampling
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.episode import Setting, play_all
from repo_agent.rollout.runner import allow_files
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.results import Grade
from repo_agent.tasks.micro import micro_suite
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry
from repo_agent.traces.store import RunDir

SUPPORT = Path(__file__).parent / "support"
JSON = PROTOCOLS["json"]
TASK = micro_suite(0).tasks[0]
MEASURED_ONCE = {"Inspect AI": "6.4-7.7", "mini-swe-agent": "2.7"}
"""Milliseconds of processor time a step, measured before on the same kind of machine."""


def calls(turns: int) -> list[ToolCall]:
    """The calls of a rollout of so many turns: it looks around and writes once; then it will stop."""
    path = next(name for name in TASK.files if name.endswith(".py"))
    looks = [
        ToolCall("list_files", {"rel_dir": ".", "max_files": 50}),
        ToolCall("read_file", {"rel_path": path, "max_chars": 4000}),
        ToolCall("grep", {"pattern": "def ", "rel_dir": ".", "max_hits": 20}),
    ]
    write = ToolCall("write_file", {"rel_path": path, "content": "value = 1\n"})
    return [*(looks[turn % len(looks)] for turn in range(turns - 2)), write]


def script(turns: int) -> list[str]:
    """The replies of that rollout."""
    return [*map(JSON.render_call, calls(turns)), JSON.render_final("done")]


async def ungraded(root: Path, job: Any, isolation: Isolation) -> Grade:
    """Stands in for the tests."""
    return Grade("no_tests", 0, 0, 0, None, "not run in this benchmark")


def setting() -> Setting:
    return Setting(
        suite="micro",
        arm="benchmark",
        model="scripted",
        spec=AgentSpec(default_registry(), JSON, Limits(tests="never", max_steps=1000)),
        sampling=Sampling(),
        seed=0,
        constrain=False,
        isolation=Isolation("none"),
        grade=ungraded,
    )


class _Heard(Scripted):
    """Keeps what it was asked."""

    def __init__(self, replies: list[str]) -> None:
        super().__init__(replies)
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        return await super().complete(request)


async def roll(tasks: list[Task], rollouts: int, jobs: int, model: Callable[[], Any]) -> None:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    run = RunDir.open(Path(folder, "run"), {"benchmark": True})
    await play_all(tasks, rollouts, lambda task, number: model(), setting(), run, jobs)
    assert len(run.write_index()) == rollouts * len(tasks)


async def ours(url: str, jobs: int, turns: int) -> Callable[[], Awaitable[None]]:
    """`jobs` rollouts at once."""
    allow_files(jobs)
    model = OpenAIChat("scripted", url)
    return lambda: roll([TASK], jobs, jobs, lambda: model)


async def bare(url: str, jobs: int, turns: int) -> Callable[[], Awaitable[None]]:
    """The same requests from `jobs` plain loops."""
    from openai import AsyncOpenAI

    heard = _Heard(script(turns))
    await roll([TASK], 1, 1, lambda: heard)
    bodies = [OpenAIChat("scripted", url)._body(request) for request in heard.requests]
    client = AsyncOpenAI(api_key="none", base_url=url)

    async def converse() -> None:
        for body in bodies:
            await client.chat.completions.create(**body)

    async def all_of_them() -> None:
        await asyncio.gather(*(converse() for _ in range(jobs)))

    return all_of_them


PARTS = {"ours": ours, "bare": bare}


async def part(name: str, url: str, jobs: int, turns: int) -> dict[str, float]:
    """Seconds, processor milliseconds a step, and peak memory of one part, in this process."""
    warm = await PARTS[name](url.replace("/v1", "/fast/v1"), 1, turns)
    await warm()
    work = await PARTS[name](url, jobs, turns)
    before, started, processor = _peak(), time.perf_counter(), time.process_time()
    await work()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_ms": 1000 * (time.process_time() - processor) / (jobs * turns),
        "before_mib": before,
        "peak_mib": _peak(),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def serving(turns: int, latency: float) -> Iterator[str]:
    """The base URL of a scripted server of its own process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.json")
        path.write_text(json.dumps(script(turns)))
        command = [sys.executable, str(SUPPORT / "scripted_server.py"), str(path), "--latency", str(latency)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            server.terminate()


def measured(command: list[str]) -> dict[str, float]:
    """What a part in a process of its own prints as its last line."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "LANG": "C.UTF-8"})
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(jobs: int, turns: int, latency: float, rounds: int) -> None:
    """Both parts in turn, `rounds` times; the best round of each counts."""
    with serving(turns, latency) as url:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in PARTS}
        for name in [*PARTS] * rounds:
            words = [name, "--url", url, "--jobs", str(jobs), "--turns", str(turns)]
            found[name].append(measured([sys.executable, __file__, "--part", *words]))
    best = {name: min(rounds_, key=lambda one: one["seconds"]) for name, rounds_ in found.items()}
    print(f"\n{jobs} at once, {turns} turns each, {latency:g} s latency, best of {rounds}:")
    print(f"{'':8}{'seconds':>9}{'steps/s':>9}{'CPU ms/step':>13}{'peak MiB':>10}{'of it before':>14}")
    for name, figures in best.items():
        rate = jobs * turns / figures["seconds"]
        print(f"{name:8}{figures['seconds']:9.2f}{rate:9.1f}{figures['cpu_ms']:13.2f}", end="")
        print(f"{figures['peak_mib']:10.0f}{figures['before_mib']:14.0f}")
    share = best["bare"]["seconds"] / best["ours"]["seconds"]
    beyond = min(one["cpu_ms"] for one in found["ours"]) - min(one["cpu_ms"] for one in found["bare"])
    print(f"of the bare loop's rate: {share:.1%} (bar: 95%); CPU a step beyond the SDK's: {beyond:.2f} ms (bar: 1 ms)")


def overhead(turns: int, peers: str | None) -> None:
    """Processor time a step of one rollout after another; the replies come from this process, so no client counts."""
    print("\none rollout at a time, replies made in the process (no client library), CPU ms a step:")
    print(f"  {'ours':16}{asyncio.run(alone(turns, 50)):8.2f}  (tools in Python, trace on disk)")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "files.json").write_text(json.dumps(TASK.files))
        path = Path(folder, "script.json")
        path.write_text(json.dumps([[call.name, call.args] for call in calls(turns)]))
        for name, file in (("Inspect AI", "peer_inspect.py"), ("mini-swe-agent", "peer_mini.py")):
            try:
                if not peers:
                    raise FileNotFoundError
                figures = measured([peers, str(SUPPORT / file), str(path), "50"])
                shells = f", and {figures['shell_ms']:.2f} in its shells" if "shell_ms" in figures else ""
                print(f"  {name:16}{figures['cpu_ms']:8.2f}  (version {figures['version']}{shells})")
            except (FileNotFoundError, subprocess.CalledProcessError):
                print(f"  {name:16}{MEASURED_ONCE[name]:>8}  (measured once before, not in this run)")


async def alone(turns: int, times: int) -> float:
    """Processor milliseconds a step of rollouts one after another, with a model that answers at once."""
    replies = script(turns)
    await roll([TASK], 1, 1, lambda: Scripted(replies))
    started = time.process_time()
    await roll([TASK], times, 1, lambda: Scripted(replies))
    return 1000 * (time.process_time() - started) / (times * turns)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rollouts at once, beside a bare client loop.")
    parser.add_argument("--jobs", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--latency", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="Interpreter that has inspect-ai and mini-swe-agent.")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--url", default="")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(asyncio.run(part(options.part, options.url, options.jobs[0], options.turns))))
    else:
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; tests off: not run, nothing graded")
        for jobs in options.jobs:
            compare(jobs, options.turns, options.latency, options.rounds)
        overhead(options.turns, options.peers)


if __name__ == "__main__":
    main()
