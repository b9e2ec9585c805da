"""A real vLLM with base and adapter on one server: what it says is what `local:` says, and a grammar holds it.

`make test-vllm` makes its environment. Skips where REPO_AGENT_VLLM names no Python that has vLLM.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_cli import run as cli

from repo_agent.chat.tokenizer import TINY
from repo_agent.rollout.live import EvalOptions, run_eval

PYTHON = Path(os.environ.get("REPO_AGENT_VLLM") or Path(__file__).parent.parent / ".venv-vllm/bin/python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.with_name("vllm").exists(), reason=f"no vLLM beside {PYTHON}: make test-vllm"),
]
MALFORMED = frozenset(
    "truncated no_call multiple_calls wrapped json_invalid envelope_invalid unknown_tool missing_arg unexpected_arg"
    " wrong_type".split()
)
"""What a grammar rules out."""


@dataclass(frozen=True)
class Served:
    """A server of `base`, `tuned`, and `wrong`: an adapter without effect, as where a server drops the right one."""

    url: str
    tuned: Path
    wrong: Path

    def model(self, name: str) -> str:
        return f"openai:{name}@{self.url}"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the tiny base, trained on a few runs of the oracle."""
    folder = tmp_path_factory.mktemp("trained")
    for line in (
        "eval --suite micro --split train --held-out 45 --model oracle --rollouts 2 --out {0}/runs",
        "build {0}/runs --out {0}/dataset",
        "train {0}/dataset --base tiny --rank 8 --lr 2e-3 --epochs 2 --out {0}/adapter",
    ):
        command = [Path(sys.executable).with_name("repo-agent"), *line.format(folder).split()]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder / "adapter"


@pytest.fixture(scope="module")
def served(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    wrong = _zeroed(tuned, tmp_path_factory.mktemp("wrong") / "adapter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        f"--model {TINY} --served-model-name base --enforce-eager --dtype float32 --max-model-len 2048"
        f" --max-num-seqs 4 --enable-lora --max-lora-rank 8 --max-loras 2 --lora-modules tuned={tuned} wrong={wrong}"
        f" --host 127.0.0.1 --port {port}"
    )
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as out:
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *flags.split()]
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield Served(f"http://127.0.0.1:{port}/v1", tuned, wrong)
    finally:
        server.terminate()
        server.wait(60)


def _zeroed(adapter: Path, folder: Path) -> Path:
    """The adapter with every B matrix zero."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    weights = folder / "adapter_model.safetensors"
    save_file({name: one * ("lora_B" not in name) for name, one in load_file(weights).items()}, weights)
    return folder


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1800):
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"the server does not start: {log.read_text(errors='replace')[-4000:]}")


class Turn(NamedTuple):
    """What two runs of the same weights share."""

    task: str
    turn_class: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    prompt: str
    """Hash of the prompt's token ids."""


def play(out: Path, model: str, **more: Any) -> list[Turn]:
    settings = {"temperature": 0.0, "max_tokens": 256, "jobs": 2, "tests": "never", "held_out": 6} | more
    run_eval(EvalOptions(suite="micro", split="held-out", model=model, out=out, **settings))
    found = []
    for path in sorted(out.glob("traces/*/*.jsonl")):
        for event in map(json.loads, path.read_text().splitlines()):
            if event["kind"] == "llm_action":
                keys = ("turn_class", "text", "prompt_tokens", "completion_tokens", "prompt_ids_hash")
                found.append(Turn(path.parent.name, *(event.get(key) for key in keys)))
    return found


def told(name: str, served: list[Turn], local: list[Turn]) -> None:
    """A row of the table in docs/models.md."""
    pairs = list(zip(served, local, strict=True))
    texts, prompts = (sum(getattr(a, key) == getattr(b, key) for a, b in pairs) for key in ("text", "prompt"))
    print(f"\n| {name} | {len(pairs)} | {texts} | {prompts} |")


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_served_turns_equal_those_of_this_process(served: Served, tmp_path: Path, name: str) -> None:
    """At temperature 0: the same classes, texts and counts, and the same token ids of every prompt."""
    adapter = f"+{served.tuned}" if name == "tuned" else ""
    there, here = play(tmp_path / "served", served.model(name)), play(tmp_path / "local", f"local:tiny{adapter}")
    told(name, there, here)
    assert there == here and all(turn.prompt for turn in there) and len({turn.task for turn in there}) == 6


def test_base_and_tuned_differ_and_the_adapter_without_effect_is_the_base(served: Served, tmp_path: Path) -> None:
    said = {name: play(tmp_path / name, served.model(name)) for name in ("base", "tuned", "wrong")}
    assert said["wrong"] == said["base"] != said["tuned"]


def test_a_grammar_holds_the_base_to_well_formed_calls(served: Served, tmp_path: Path) -> None:
    """Drawn at temperature 1 the base errs; under the grammar only what no grammar rules out is left."""
    settings = {"temperature": 1.0, "seed": 3}
    free = play(tmp_path / "free", served.model("base"), **settings)
    held = play(tmp_path / "held", served.model("base"), constrain=True, **settings)
    start = json.loads(next((tmp_path / "held").glob("traces/*/*.jsonl")).read_text().splitlines()[0])
    bad = [sum(turn.turn_class in MALFORMED for turn in turns) for turns in (free, held)]
    print(f"\n| free | {len(free)} | {bad[0]} malformed |\n| under the grammar | {len(held)} | {bad[1]} malformed |")
    assert start["constraint"] == "grammar" and bad[0] > 0 and bad[1] == 0


def test_constrained_turns_equal_those_of_this_process(served: Served, tmp_path: Path) -> None:
    there = play(tmp_path / "served", served.model("base"), constrain=True)
    here = play(tmp_path / "local", "local:tiny", constrain=True)
    told("base, constrained", there, here)
    assert there == here


def test_the_canary_takes_the_adapter_and_refuses_one_without_effect(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "eval --suite micro --split held-out --held-out 2 --tests never --max-tokens 256 --json".split()
    for name, ends in (("tuned", 0), ("wrong", 2)):
        options = ["--model", served.model(name), "--adapter", served.tuned, "--out", tmp_path / name]
        code, _, error = cli(capsys, *words, *options)
        assert code == ends, error
    print(f"\n{error}")
    assert "none is the adapter's" in error and not list(tmp_path.glob("wrong/traces/*/*"))
    assert json.loads((tmp_path / "tuned" / "run.json").read_text())["adapter"]["base"] == "tiny"
