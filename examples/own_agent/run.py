"""The whole way in an agent of one's own, on the tiny model that the package carries: recorded, built, trained, and
base against tuned twice, by replay and live. Prints each command; takes a few minutes on two cores.

    python examples/own_agent/run.py --out own-agent-out
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from repo_agent.tasks import load_suite

HERE = Path(__file__).parent
HELD_OUT = 16
TASK = r"regex:(\w+)\.py"
"""Where the recorder finds the name of a task in the first user message."""


def say(words: list[str]) -> None:
    print(f"\n$ {shlex.join(words)}", flush=True)


def run(*words: str) -> None:
    say(["repo-agent", *words])
    subprocess.run([sys.executable, "-m", "repo_agent.cli", *words], check=True)


@contextmanager
def server(*words: str) -> Iterator[str]:
    """A command that serves until it is told to stop; gives the base URL that it prints."""
    say(["repo-agent", *words])
    process = subprocess.Popen([sys.executable, "-m", "repo_agent.cli", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            print(line, end="", flush=True)
            if "http://127.0.0.1" in line:
                yield "http://" + line.split("http://")[-1].split(";")[0].strip()
                return
        raise SystemExit(f"{words[0]} ended without a URL")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def agent(url: str, model: str, tasks: Path, rollouts: int) -> None:
    words = ["--base-url", url, "--model", model, "--tasks", str(tasks), "--rollouts", str(rollouts)]
    say(["python", "agent.py", *words])
    subprocess.run([sys.executable, str(HERE / "agent.py"), *words], check=True)


def write_tasks(path: Path, seed: int, only: Sequence[str] | None = None) -> None:
    """Small tasks of ours, in the agent's own form: they stand in for a user's."""
    tasks = [
        {"id": re.findall(TASK.removeprefix("regex:"), task.goal)[0], "goal": task.goal, "files": task.files,
         "fix": task.fix}
        for task in load_suite(f"micro={seed}").tasks
    ]  # fmt: skip
    tasks = [task for task in tasks if only is None or task["id"] in only]
    path.write_text(json.dumps(tasks))


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--out", type=Path, default=Path("own-agent-out"))
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--rollouts", type=int, default=3)
    args = words.parse_args()
    out, began = args.out, time.monotonic()
    out.mkdir(parents=True)
    tasks, schema = out / "tasks.json", str(HERE / "schema.json")
    write_tasks(tasks, args.seed)
    runs = [str(out / name) for name in ("base", "tuned")]

    shared = ["--tools", schema, "--task-from", TASK, "--port", "0"]
    with (
        server("serve", "base=local:tiny", "--port", "0") as upstream,
        server("record", "--upstream", upstream, *shared, "--out", runs[0]) as url,
    ):
        agent(url, "base", tasks, args.rollouts)
    dataset, adapter = str(out / "dataset"), str(out / "adapter")
    run("build", runs[0], "--hold-out", str(HELD_OUT), "--out", dataset)
    run("train", dataset, "--base", "tiny", "--epochs", "5", "--lr", "2e-3", "--seed", str(args.seed), "--out", adapter)
    tuned = f"local:tiny+{adapter}"

    for name, model in (("base", "local:tiny"), ("tuned", tuned)):
        run("replay", runs[0], "--dataset", dataset, "--model", model, "--out", str(out / f"replay-{name}"))
    run("compare", str(out / "replay-base"), str(out / "replay-tuned"), "--out", str(out / "report-replay"))

    write_tasks(tasks, args.seed, json.loads(Path(dataset, "dataset.json").read_text())["split"]["held_out"])
    with (
        server("serve", f"tuned={tuned}", "--port", "0") as upstream,
        server("record", "--upstream", upstream, *shared, "--adapter", adapter, "--out", runs[1]) as url,
    ):
        agent(url, "tuned", tasks, args.rollouts)
    run("compare", *runs, "--out", str(out / "report-live"))
    print(f"\nThe whole way took {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
