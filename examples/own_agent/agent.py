"""An agent of its own: the plain `openai` SDK, four tools, calls as JSON text. It knows nothing of repo-agent but a
base URL, and at the end of a rollout it tells the recorder whether the job was done.

    python agent.py --base-url http://127.0.0.1:8321/v1 --model base --tasks tasks.json --rollouts 3
"""

from __future__ import annotations

import argparse
import json
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai

PROMPT = (Path(__file__).parent / "prompt.txt").read_text()
STEPS, BAD_TURNS = 12, 3


def inside(root: Path, path: str) -> Path:
    found = (root / path).resolve()
    if not found.is_relative_to(root):
        raise ValueError(f"{path} is outside of the repository")
    return found


def files(root: Path, folder: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in inside(root, folder).rglob("*") if path.is_file())


def list_files(root: Path, rel_dir: str, max_files: int) -> str:
    return "\n".join(files(root, rel_dir)[:max_files]) or "[no files]"


def read_file(root: Path, rel_path: str, max_chars: int) -> str:
    return inside(root, rel_path).read_text()[:max_chars]


def grep(root: Path, pattern: str, rel_dir: str, max_hits: int) -> str:
    lines = [
        f"{name}:{number}:{line}"
        for name in files(root, rel_dir)
        for number, line in enumerate((root / name).read_text().splitlines(), 1)
        if pattern in line
    ]
    return "\n".join(lines[:max_hits]) or "[no hits]"


def write_file(root: Path, rel_path: str, content: str) -> str:
    path = inside(root, rel_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return f"wrote {rel_path}"


TOOLS = {"list_files": list_files, "read_file": read_file, "grep": grep, "write_file": write_file}


def turn(root: Path, text: str) -> tuple[str | None, bool]:
    """What the model is told next, None where it has finished; and whether its turn was good."""
    try:
        said = json.loads(text)
        if said["type"] == "final":
            return None, True
        return TOOLS[said["name"]](root, **said["args"]), True
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"error: {error}", False


def play(client: openai.OpenAI, model: str, task: dict[str, Any], number: int) -> bool:
    """One rollout; whether every file is as it should be."""
    name = f"{task['id']}-{number}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for path, text in task["files"].items():
            write_file(root, path, text)
        messages: list[Any] = [{"role": "system", "content": PROMPT},
                               {"role": "user", "content": f"GOAL:\n{task['goal']}"}]  # fmt: skip
        bad = 0
        for step in range(STEPS):
            reply = client.chat.completions.create(
                model=model, messages=messages, temperature=0.7, max_tokens=400, seed=1000 * number + step,
                extra_headers={"X-Repo-Agent-Rollout": name},
            )  # fmt: skip
            text = reply.choices[0].message.content or ""
            observation, good = turn(root, text)
            bad = 0 if good else bad + 1
            if observation is None or bad == BAD_TURNS:
                break
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": observation}]
        done = all((root / path).is_file() and (root / path).read_text() == text for path, text in task["fix"].items())
    tell(str(client.base_url), name, done)
    return done


def tell(base_url: str, name: str, passed: bool) -> None:
    """The outcome, for the recorder: it ends the rollout."""
    body = json.dumps({"conversation": name, "passed": passed}).encode()
    url = base_url.removesuffix("/").removesuffix("/v1") + "/_repo_agent/mark"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).close()


def main() -> None:
    words = argparse.ArgumentParser()
    for flag in ("--base-url", "--model", "--tasks"):
        words.add_argument(flag, required=True)
    words.add_argument("--rollouts", type=int, default=1)
    args = words.parse_args()
    tasks = json.loads(Path(args.tasks).read_text())
    client = openai.OpenAI(base_url=args.base_url, api_key="none", timeout=600)
    jobs = [(task, number) for number in range(args.rollouts) for task in tasks]
    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda job: play(client, args.model, *job), jobs))
    print(f"{args.model}: {sum(done)} of {len(done)} rollouts did the job")


if __name__ == "__main__":
    main()
