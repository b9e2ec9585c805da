"""Training speed at the shape of Qwen2.5-7B with random weights: tokens a second, MFU, memory, seconds an epoch.

    python benchmarks/train_7b.py [--shape tiny|7b] [--tokenizer NAME] [--suite quixbugs=PATH | --dataset DIR]
        [--json FILE]

Rows are oracle rollouts of a suite, or those of a dataset. (a) `trl`: step rows through TRL's own packing (bfd), as
long as its longest row, with flash attention and Liger's kernels where they are installed, and activations computed
again where memory does not hold them; (b) `ours`: one row a rollout, as `repo-agent train` does it. Both train the same
tokens. MFU is told by 4N operations a token (forward, and backward without gradients of frozen weights) and by 6N (as
it is often quoted), against the speed of a large matrix product, measured here. What two of our steps spend most time
on comes from torch's profiler, in a run apart. `7b` needs a GPU of 80 GB; `tiny` shows that the script works, and its
figures say nothing.

    pip download --no-deps --only-binary=:all: --dest .whl trl peft datasets accelerate  # what a GPU image may lack
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import TINY, load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.chat.weights import load_weights
from repo_agent.data.dataset import Dataset, read_dataset
from repo_agent.data.trajectories import steps
from repo_agent.models.local import LocalModel
from repo_agent.train.config import TrainConfig
from repo_agent.train.local import quiet, train
from repo_agent.train.plan import matmul_speed

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768, "rope_theta": 1e6},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 8192, "max_position_embeddings": 8192},
}  # fmt: skip
BEST_PUBLIC = 14_000
"""Tokens a second of LoRA on a 7B, the best figure published for one H100."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--tokenizer", default=str(TINY), help="of Qwen2.5 for real lengths; default: the tiny base's")
    parser.add_argument("--suite", default="bundled")
    parser.add_argument("--dataset", type=Path, help="take this one, and play no rollouts")
    parser.add_argument("--steps", type=int, default=-1, help="of TRL; its epoch is told from their speed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = make_base(folder, given.shape, given.tokenizer)
        data = given.dataset or make_dataset(folder, given.suite)
        speed = matmul_speed()
        ours = run_ours(folder, base, data)
        print(f"ours: {ours}", flush=True)  # a figure is not lost with the next one
        most = profiled(folder, base, data)
        trl = run_trl(base, read_dataset(data), given.steps)
    count = ours.pop("parameters")
    for arm in (trl, ours):
        rate = arm["tokens_per_second"]
        arm["mfu_4n"], arm["mfu_6n"] = 4 * count * rate / speed, 6 * count * rate / speed
    figures = {"shape": given.shape, "parameters": count, "matmul_tflops": speed / 1e12, "trl": trl, "ours": ours,
               "epoch_ratio": trl["epoch_seconds"] / ours["epoch_seconds"],
               "token_ratio": trl["tokens"] / ours["tokens"], "best_public_tokens_per_second": BEST_PUBLIC,
               "most_time": most}  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{count / 1e6:,.1f}M parameters, matrix products at {speed / 1e12:.2f} TFLOP/s")
    for name, arm in (("trl, step rows", trl), ("ours", ours)):
        print(f"{name:16}" + "  ".join(f"{key} {value:,.3g}" for key, value in arm.items() if value is not None))
    times, tokens = figures["epoch_ratio"], figures["token_ratio"]
    print("most time: " + ", ".join(f"{name} {share:.0%}" for name, share in most.items()))
    print(f"step rows: {times:.2f} times the time of an epoch, {tokens:.2f} times its tokens")


def make_base(folder: Path, shape: str, tokenizer: str) -> str:
    """A folder with a Qwen2 of random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    kind = torch.bfloat16 if shape == "7b" else torch.float32
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(kind)
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape], tie_word_embeddings=False))
        torch.set_default_dtype(torch.float32)
    loaded = load_tokenizer(tokenizer)
    model.generation_config.eos_token_id = model.config.eos_token_id = loaded.eos_token_id
    with quiet():
        model.save_pretrained(folder / "base")
        loaded.save_pretrained(folder / "base")
    return str(folder / "base")


def make_dataset(folder: Path, suite: str) -> Path:
    """The oracle's rollouts of the train tasks."""
    run = [sys.executable, "-m", "repo_agent.cli"]
    played = ["eval", "--suite", suite, "--split", "train", "--model", "oracle", "--rollouts", "2", "--out"]
    for words in ([*played, str(folder / "runs")], ["build", str(folder / "runs"), "--out", str(folder / "data")]):
        subprocess.run([*run, *words], check=True, stdout=subprocess.DEVNULL)
    return folder / "data"


def run_ours(folder: Path, base: str, data: Path) -> dict[str, Any]:
    record = train(data, folder / "adapter", TrainConfig(base=base, epochs=2, evals=0, lr=1e-4))
    later = record.losses[len(record.losses) // 2 :]  # the first epoch warms up
    read, seconds = sum(one.tokens or 0 for one in later), sum(one.seconds or 0.0 for one in later)
    model = LocalModel(base, folder / "adapter", name="tuned")
    weights = model._batch.model
    return {
        "parameters": weights.num_parameters(),
        "tokens": record.tokens,
        "trained_tokens": record.trained_tokens,
        "tokens_per_second": read / seconds,
        "trained_per_second": record.trained_tokens / record.tokens * read / seconds,
        "epoch_seconds": record.tokens / (read / seconds),
        "peak_gb": None if record.peak_memory is None else record.peak_memory / 1e9,
        "generated_tokens": generates(model),
    }


def profiled(folder: Path, base: str, data: Path) -> dict[str, float]:
    """The three operations on which two steps of ours spend most, and their shares."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    gpu = torch.cuda.is_available()
    found = profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU])

    def on_step(step: int, *_: Any) -> None:
        if step == 2:
            found.start()
        if step == 4:
            found.stop()

    train(data, folder / "profiled", TrainConfig(base=base, epochs=1, evals=0, lr=1e-4), on_step)
    name = "self_device_time_total" if gpu else "self_cpu_time_total"
    rows = sorted(((getattr(one, name), one.key) for one in found.key_averages()), reverse=True)
    whole = sum(time for time, _ in rows)
    return {key: time / whole for time, key in rows[:3]}


def generates(model: LocalModel) -> int:
    """Tokens of a reply of the tuned model: the adapter loads and runs."""
    import asyncio

    from repo_agent.messages import Message
    from repo_agent.models import Request, Sampling

    async def reply() -> int:
        done = await model.complete(Request((Message("user", "Say hello."),), Sampling(0.0, 8), 0))
        await model.close()
        return done.usage.completion_tokens or 0

    return asyncio.run(reply())


def run_trl(base: str, dataset: Dataset, most: int) -> dict[str, Any]:
    """An epoch of step rows by TRL, with its packing; `most` steps, or all where that is -1."""
    import torch

    try:
        return trl_epoch(base, dataset, most, again=False)
    except torch.cuda.OutOfMemoryError:
        pass  # what failed holds its memory until here
    return trl_epoch(base, dataset, most, again=True)


def trl_epoch(base: str, dataset: Dataset, most: int, again: bool) -> dict[str, Any]:
    import datasets
    import peft
    import torch
    from trl import SFTConfig, SFTTrainer

    gc.collect()
    torch.cuda.empty_cache()
    renderer = Renderer(load_tokenizer(base), dataset.contract.printed_tools)
    found = (step for one in dataset.trajectories() for step in steps(one))
    rows: list[Tokens] = [renderer.rows([*context, turn.reply], [turn.at])[0] for turn, context in found]
    longest = max(len(row.input_ids) for row in rows)
    table = {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    gpu = torch.cuda.is_available()
    with quiet(), tempfile.TemporaryDirectory() as place:
        model = load_weights(base)
        if gpu and find_spec("flash_attn"):
            model.set_attn_implementation("flash_attention_2")
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=place, packing=True, packing_strategy="bfd", max_length=max(longest, 8192 if gpu else 0),
                per_device_train_batch_size=1, gradient_accumulation_steps=1, num_train_epochs=1, max_steps=most,
                learning_rate=1e-4,
                bf16=gpu, use_cpu=not gpu, gradient_checkpointing=again, report_to="none", save_strategy="no",
                include_num_input_tokens_seen="all",
                dataloader_pin_memory=gpu, disable_tqdm=True, logging_strategy="no",
                use_liger_kernel=gpu and find_spec("liger_kernel") is not None,
            ),
            train_dataset=datasets.Dataset.from_dict(table),
            processing_class=renderer.tokenizer,
            peft_config=peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - started
    tokens, trained = sum(len(row.input_ids) for row in rows), sum(row.trained for row in rows)
    rate = trainer.state.num_input_tokens_seen / seconds
    return {
        "tokens": tokens,
        "trained_tokens": trained,
        "tokens_per_second": rate,
        "trained_per_second": trained / tokens * rate,
        "epoch_seconds": tokens / rate,
        "checkpointing": again,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
    }


if __name__ == "__main__":
    main()
