"""How fast `inventory` and `build` go through a pile of traces, against a bare `json.loads` of the same lines.

    python benchmarks/build_throughput.py [--gigabytes 0.2 2] [--folder DIR]

The pile is made up, of a fixed seed, in today's shape and in the older one, in which every request repeats all that was
said before: code-fixing rollouts of 12 turns, one of them a bad call, with tool outputs of 0.2 to 4 kB; no two traces
share a text, so that no work on one helps with another. Every turn is judged afresh, and every gate is on. Each
measurement is a process of its own, on files that were read once before; speeds are bytes on disk a second. `build`
stops before token ids are made: how fast those are is the tokenizer's own business. `datasets.load_dataset` reads the
same files as plain JSON lines, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo_agent.agent.spec import AgentSpec
from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.classify import Registries
from repo_agent.data.gates import GATES, GateContext, GateSettings, apply_gates
from repo_agent.data.inventory import inventory
from repo_agent.data.pool import worked
from repo_agent.data.texts import Texts
from repo_agent.data.trajectories import trajectories_of
from repo_agent.data.work import Job
from repo_agent.messages import Message
from repo_agent.protocols import PROTOCOLS
from repo_agent.tools.files import default_registry
from repo_agent.traces import events
from repo_agent.traces.read import find_traces, iter_traces

SHAPES = ("today's", "older")
TURNS = 12
SPEC = AgentSpec(default_registry(), PROTOCOLS["json"])


class Words:
    """Code-like text without end, cut anew from a pool for each use."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._used = rng, 0
        names = [f"{a}_{b}" for a in ("read", "node", "total", "left", "key") for b in ("item", "count", "at", "of")]
        lines = [
            f"{'    ' * rng.randrange(4)}{rng.choice(names)} = {rng.choice(names)}({rng.choice(names)}, "
            f'{rng.randrange(10**6)}, "{rng.choice(names)}")'
            for _ in range(60_000)
        ]
        self._pool = "\n".join(lines)

    def text(self, low: int, high: int) -> str:
        size = self._rng.randint(low, high)
        start = self._rng.randrange(len(self._pool) - size)
        self._used += 1
        return f"# part {self._used}\n{self._pool[start : start + size]}\n"

    def actions(self) -> Iterator[tuple[dict[str, Any], str, bool]]:
        """Each turn's action, what the driver says to it, and whether it is a valid call that ran."""
        for t in range(TURNS - 1):
            path = f"src/part_{self._rng.randrange(10**6)}.py"
            if t == 3:
                said = {"type": "tool_call", "name": "read_file", "args": {"rel_path": path}}
                yield said, "read_file: max_chars is missing", False
            elif t % 5 == 4:
                args = {"pattern": f"def part_{t}", "rel_dir": ".", "max_hits": 20}
                yield {"type": "tool_call", "name": "grep", "args": args}, self.text(100, 800), True
            elif t == TURNS - 2:
                args = {"rel_path": path, "content": self.text(1_000, 4_000)}
                yield {"type": "tool_call", "name": "write_file", "args": args}, "written", True
            else:
                args = {"rel_path": path, "max_chars": 4_000}
                yield {"type": "tool_call", "name": "read_file", "args": args}, self.text(500, 4_000), True
        yield {"type": "final", "summary": "Fixed the defect."}, "", True


def todays(words: Words, number: int) -> bytes:
    """A trace in today's shape."""
    goal = f"GOAL:\nFix part {number}.\n{words.text(200, 400)}"
    task = f"task-{number}"
    system = SPEC.system
    lines: list[events.Event] = [
        events.RunStart(
            task=task, group=task, task_hash=None, suite="suite", rollout=0, arm="base", model="made-up",
            protocol="json", system=system, tools=SPEC.registry.schemas(), sampling={}, seed=0, isolation=None,
        )
    ]  # fmt: skip
    fresh, sent, said = [events.WireMessage(role="user", content=goal)], 1, dict[str, Any]()
    for t, (action, output, valid) in enumerate(words.actions()):
        said, turn_class = action, "ok" if valid else "missing_args"
        lines.append(events.LlmRequest(t=t, sent=sent, messages=fresh))
        calls = [{"name": action["name"], "args": action["args"]}] if valid and "name" in action else []
        lines.append(
            events.LlmAction(
                t=t, text=json.dumps(action), prompt_tokens=1, completion_tokens=1, seconds=0.1, calls=calls,
                turn_class=turn_class if "name" in action else "final", lenient_ok=valid,
            )
        )  # fmt: skip
        if valid and "name" in action:
            unseen: list[str] | None = [] if action["name"] == "write_file" else None
            lines.append(events.ToolResultEvent(t=t, ok=True, output=output, unseen=unseen))
        sent += len(fresh) + 1
        answer = f"OBSERVATION {action.get('name')}:\n{output}" if valid else f"ERROR:\n{output}"
        fresh = [events.WireMessage(role="user", content=answer)]
    lines.append(events.Final(t=TURNS - 1, value=said))
    lines.append(
        events.RunEnd(
            ended="final", passed=True, steps=TURNS, prompt_tokens=1, completion_tokens=1, seconds=1.0, error=""
        )
    )
    return b"".join(line.line() for line in lines)


def older(words: Words, number: int) -> bytes:
    """A trace in the older shape."""
    name = f"run{number}"
    meta = {"task_id": f"task-{number}", "model": "made-up", "goal": words.text(200, 400)}
    messages = [Message("system", SPEC.system).to_dict(), Message("user", f"GOAL:\n{meta['goal']}").to_dict()]
    lines: list[bytes] = []

    def event(kind: str, payload: dict[str, Any]) -> None:
        record = {"ts": 1_700_000_000.5, "kind": kind, "payload": payload, "run_id": name, "meta": meta}
        lines.append(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    event("run_start", {"run_id": name, "goal": meta["goal"]})
    for t, (action, output, valid) in enumerate(words.actions()):
        event("llm_request", {"t": t, "messages": messages})
        if "name" not in action:
            event("llm_action", {"t": t, "raw": action, "action": action})
            break
        event("llm_action", {"t": t, "raw": action, "action": action})
        event("tool_result", {"t": t, "tool": action["name"], "obs": {"ok": valid, "output": output}})
        messages += [
            Message("assistant", json.dumps(action)).to_dict(),
            Message("user", f"OBSERVATION:\n{output}").to_dict(),
        ]
    event("run_end", {"run_id": name, "state": {"last_test": {"ok": True}}})
    return b"".join(lines)


def make(folder: Path, shape: str, size: int) -> int:
    """Fill a folder with traces; returns how many bytes they are."""
    words, written, number = Words(random.Random(0)), 0, 0
    while written < size:
        place = folder / f"{number // 1000}"
        place.mkdir(parents=True, exist_ok=True)
        data = (todays if shape == SHAPES[0] else older)(words, number)
        (place / f"{number}.jsonl").write_bytes(data)
        written, number = written + len(data), number + 1
    return written


def read_alone(folder: Path) -> dict[str, float]:
    """`json.loads` of every line and nothing more, on files that were read once before."""
    paths = [str(path) for path in find_traces([folder])]
    for path in paths:
        Path(path).read_bytes()
    started = time.perf_counter()
    for path in paths:
        with open(path, "rb") as file:
            for line in file:
                json.loads(line)
    return {"json.loads": time.perf_counter() - started}


def take_inventory(folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    found = inventory([folder])
    assert found["kept"] and not found["problems"], found
    return {"inventory": time.perf_counter() - started}


def judge(folder: Path, jobs: int = 1, settings: GateSettings | None = None) -> dict[str, float]:
    """What `build` does on each trace before it makes token ids."""
    traces = find_traces([folder])
    job = Job(settings=settings or GateSettings(), train=None, tokenizer="tiny", tokenise=False)
    started, rows, stages = time.perf_counter(), 0, dict[str, float]()
    for done in worked(traces, job, jobs):
        rows += sum(len(part.rows) for part in done.parts.values())
        for stage, seconds in done.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    assert rows, "every trace should give a row"
    return {"build": time.perf_counter() - started, **{f"  {stage}": seconds for stage, seconds in stages.items()}}


def judge_with_two(folder: Path) -> dict[str, float]:
    return {"build --jobs 2": judge(folder, 2)["build"]}


def each_gate(folder: Path) -> dict[str, float]:
    """Seconds in each gate, on its own, on the same turns."""
    registries, on = Registries(), GateSettings().on
    context = GateContext(None, Texts(spelt=Renderer(load_tokenizer("tiny")).control_tokens))
    seconds = {name: 0.0 for name in GATES if name in on}
    for _, trace, _ in iter_traces(find_traces([folder])[:2_000]):
        assert trace is not None
        for trajectory in trajectories_of(trace, registries.of(trace)):
            for name in seconds:
                started = time.perf_counter()
                apply_gates(trajectory, context, GateSettings({name: on[name]}))
                seconds[name] += time.perf_counter() - started
    return seconds


def load_with_datasets(folder: Path) -> dict[str, float]:
    import datasets

    datasets.disable_progress_bars()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        files = [str(path) for path in find_traces([folder])]
        datasets.load_dataset("json", data_files=files, cache_dir=cache)
    return {"datasets.load_dataset": time.perf_counter() - started}


MEASUREMENTS = {
    function.__name__: function
    for function in (read_alone, take_inventory, judge, judge_with_two, each_gate, load_with_datasets)
}


def measured(name: str, folder: Path) -> tuple[dict[str, float], float] | str:
    """Seconds by name, and peak memory in MB, of a measurement in a process of its own; or why there is none."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:200]
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["peak_mb"]


def table(folder: Path, shape: str, size: int) -> None:
    print(f"\n{shape} shape, {size / 1e9:.2f} GB")
    print(f"{'':24}{'seconds':>9}{'MB/s':>9}{'x json.loads':>14}{'peak MB':>9}")
    bare = 0.0
    for name in MEASUREMENTS:
        if name == "each_gate":
            continue
        result = measured(name, folder)
        if isinstance(result, str):
            print(f"{name:24}{result}")
            continue
        seconds, peak = result
        bare = seconds.get("json.loads", bare)
        for number, (what, took) in enumerate(seconds.items()):
            memory = f"{peak:9.0f}" if not number else ""
            print(f"{what:24}{took:9.2f}{size / 1e6 / took:9.1f}{bare / took:14.2f}{memory}")
    result = measured("each_gate", folder)
    shares = result[0] if not isinstance(result, str) else {}
    total = sum(shares.values())
    print("gates: " + ", ".join(f"{name} {took / total:.0%}" for name, took in shares.items()) if shares else result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 2.0])
    parser.add_argument("--folder", type=Path, help="where to put the piles; they are removed at the end")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        seconds = MEASUREMENTS[options.measure](options.folder)
        kilobytes = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps({"seconds": seconds, "peak_mb": kilobytes / 1e3}))
        return
    for size in options.gigabytes:
        for shape in SHAPES:
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                table(Path(name), shape, make(Path(name), shape, int(size * 1e9)))


if __name__ == "__main__":
    main()
