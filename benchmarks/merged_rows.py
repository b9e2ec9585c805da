"""One row a trajectory against one row a step: tokens, and seconds of a pass over the same trained tokens.

    python benchmarks/merged_rows.py [--base tiny] [--turns 5 10 20] [--trajectories 4]

A pass is forward and backward of a LoRA model on the rows, batched by TRL's collator, in one process and with the same
number of rows a batch; the best of three. Equal turns give a ratio of tokens near (T + 1) / 2.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer, locate
from repo_agent.chat.tokens import Tokens
from repo_agent.messages import Message, ToolCall
from repo_agent.protocols.json_object import JsonObject

ROWS_A_BATCH = 4


def trajectory(seed: int, turns: int) -> tuple[list[Message], list[int]]:
    """A conversation of `turns` calls with results of about equal length, and the indices of its calls."""
    wire, rng = JsonObject(), random.Random(seed)
    talk, targets = [Message("system", "You fix code."), Message("user", f"GOAL:\nrename f{seed}")], []
    for turn in range(turns):
        call = ToolCall("read_file", {"rel_path": f"src/m{turn}.py", "max_chars": 4000})
        targets.append(len(talk))
        body = "".join(rng.choice("abcdefgh_ ") for _ in range(60))
        said = Message("assistant", wire.render_call(call))
        talk += [said, *wire.observe(said, body)]
    return talk[:-1], targets


def rows_of(renderer: Renderer, count: int, turns: int) -> tuple[list[Tokens], list[Tokens]]:
    """Step rows and merged rows of the same trajectories."""
    steps: list[Tokens] = []
    merged: list[Tokens] = []
    for seed in range(count):
        talk, targets = trajectory(seed, turns)
        merged += renderer.rows(talk, targets)
        for target in targets:
            steps += renderer.rows(talk[: target + 1], [target])
    assert sum(row.trained for row in steps) == sum(row.trained for row in merged)
    return steps, merged


def seconds(model: Any, rows: list[Tokens]) -> float:
    """The best of three passes over the rows, sorted by length."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    batches = [
        collate([{"input_ids": row.input_ids, "labels": row.labels} for row in ordered[start : start + ROWS_A_BATCH]])
        for start in range(0, len(ordered), ROWS_A_BATCH)
    ]
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for batch in batches:
            model(**{name: value.to(model.device) for name, value in batch.items()}).loss.backward()
        model.zero_grad()
        best = min(best, time.perf_counter() - started)
    return best


def lora_model(base: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(locate(base), dtype=torch.bfloat16 if gpu else torch.float32)
    if not gpu:
        torch.set_num_threads(1)
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model.to("cuda" if gpu else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--turns", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--trajectories", type=int, default=4)
    options = parser.parse_args()
    renderer, model = Renderer(load_tokenizer(options.base)), lora_model(options.base)
    print(
        f"{'turns':>5} {'step tokens':>13} {'merged':>8} {'ratio':>6} {'step seconds':>14} {'merged':>8} {'ratio':>6}"
    )
    for turns in options.turns:
        steps, merged = rows_of(renderer, options.trajectories, turns)
        before, after = (sum(len(row.input_ids) for row in rows) for rows in (steps, merged))
        slow, fast = seconds(model, steps), seconds(model, merged)
        print(f"{turns:5} {before:13} {after:8} {before / after:6.2f} {slow:14.3f} {fast:8.3f} {slow / fast:6.2f}")


if __name__ == "__main__":
    main()
