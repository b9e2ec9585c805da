"""The recipe of the tiny base model, from nothing to the folder that the package ships.

    python -m repo_agent.demo.pretrain --out src/repo_agent/demo/tiny

Stage 1 trains on random tokens that repeat, so that copying appears. Stage 2 trains on fresh transcripts of the sloppy
teacher (`corpus.py`), loss on assistant turns alone. The model is Qwen2's architecture at about half a million
parameters. It was made sloppy on purpose: it demonstrates the machinery and is no evidence about a real model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokens import IGNORE
from repo_agent.demo.corpus import transcript
from repo_agent.demo.tokenizer import build_tokenizer

TOKENIZER_TEXTS = 1500
CONTEXT = 2048
MAX_ROW = 1400
"""Longer transcripts are left out of pre-training."""
SYSTEM_SHARE = 0.4
"""Share of transcripts that keep the system prompt: it is always the same, and it costs a quarter of the tokens."""
TOKENS = 60.0
"""Millions, padding included: just under an hour of two cores."""
STAGE_1_SHARE = 0.06
PEAK_LR = 3e-3

Row = tuple[list[int], list[int]]


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description="Make the tiny base model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=TOKENS, help="Millions of tokens to train on.")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    tokenizer = build_tokenizer(_plain(transcript(-1 - number)) for number in range(TOKENIZER_TEXTS))
    model = _new_model(len(tokenizer))
    tokenizer.save_pretrained(options.out)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    budget = int(options.tokens * 1e6)
    rows = _fresh_rows(str(options.out), options.seed)
    stages = _stages(len(tokenizer), rows, options.batch, int(budget * STAGE_1_SHARE), options.seed)
    _train(model, stages, budget)
    model.save_pretrained(options.out)


def _plain(messages: list[Any]) -> str:
    return "\n".join(f"{message.role}\n{message.content}" for message in messages)


def _new_model(vocabulary: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=(vocabulary + 63) // 64 * 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def _encode(job: tuple[str, int]) -> Row | None:
    """One transcript as (input_ids, labels), loss on every assistant turn; None where it is too long."""
    folder, seed = job
    messages = transcript(seed)
    if random.Random(seed).random() > SYSTEM_SHARE:
        messages = messages[1:]
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    rows = _renderer(folder).rows(messages, turns)
    return (rows[0].input_ids, rows[0].labels) if len(rows[0].input_ids) <= MAX_ROW else None


_RENDERERS: dict[str, Renderer] = {}


def _renderer(folder: str) -> Renderer:
    if folder not in _RENDERERS:
        from transformers import AutoTokenizer

        _RENDERERS[folder] = Renderer(AutoTokenizer.from_pretrained(folder))
    return _RENDERERS[folder]


def _fresh_rows(folder: str, seed: int) -> Iterator[Row]:
    """Rows without end, made by a second process."""
    first = seed * 10_000_000
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        jobs = ((folder, number) for number in range(first, first + 10_000_000))
        for row in _bounded(pool, jobs):
            if row is not None:
                yield row


def _bounded(pool: Any, jobs: Iterator[tuple[str, int]]) -> Iterator[Row | None]:
    """`imap` that runs at most some hundred rows ahead."""
    chunk = 64
    pending = [pool.map_async(_encode, [next(jobs) for _ in range(chunk)]) for _ in range(8)]
    while True:
        pending.append(pool.map_async(_encode, [next(jobs) for _ in range(chunk)]))
        yield from pending.pop(0).get()


def _stages(vocabulary: int, rows: Iterator[Row], batch: int, repeats: int, seed: int) -> Iterator[Any]:
    """Batches: `repeats` tokens of repeats, then transcripts, similar lengths together."""
    rng = random.Random(seed)
    while repeats > 0:
        ids, labels = _repeats(vocabulary, rng)
        repeats -= ids.numel()
        yield ids, labels
    while True:
        window = sorted((next(rows) for _ in range(batch * 16)), key=lambda row: len(row[0]))
        groups = [window[at : at + batch] for at in range(0, len(window), batch)]
        rng.shuffle(groups)
        yield from (_padded(group) for group in groups)


def _repeats(vocabulary: int, rng: random.Random) -> Any:
    """Random tokens that repeat with a period of 8 to 32; loss on the repeats. Shapes (24, 64)."""
    rows = []
    for _ in range(24):
        period = rng.randint(8, 32)
        pattern = [rng.randrange(3, vocabulary) for _ in range(period)]
        ids = (pattern * 8)[:64]
        rows.append((ids, [IGNORE] * period + ids[period:]))
    return _padded(rows)


def _padded(rows: list[Row]) -> Any:
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (width - len(row)) for _, row in rows])
    return ids, labels


def _train(model: Any, batches: Iterator[Any], budget: int) -> None:
    import torch

    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98))
    started, step, losses, tokens = time.monotonic(), 0, [], 0
    while (progress := tokens / budget) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min(1.0, (step + 1) / 50, (1 - progress) / 0.7)
        ids, labels = next(batches)
        # Padding stands on the right and carries no loss, so plain causal attention needs no mask.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step, tokens = step + 1, tokens + ids.numel()
        if step % 100 == 0:
            took = time.monotonic() - started
            record = {
                "step": step,
                "loss": round(sum(losses[-100:]) / 100, 4),
                "seconds": round(took),
                "tokens_per_s": round(tokens / took),
            }
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
