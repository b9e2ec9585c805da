"""What a run will take, before it starts: rows, tokens, steps, memory, time; and how large its passes are."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from repo_agent.chat.weights import SMALL, free_memory, usual_dtype
from repo_agent.train.batches import packs, steps_of
from repo_agent.train.config import TrainConfig
from repo_agent.train.prepare import Prepared
from repo_agent.train.sizes import Memory, memory, shape_of

FLOPS_A_TOKEN = 4
"""Times the parameters: forward, and backward without gradients of frozen weights. A further forward has two more."""
_EFFICIENCY = {"cuda": 0.4, "cpu": 0.5}
"""Of the speed of plain matrix products."""
_PASS = {"small": 4096, "cpu": 1024, "least": 2048, "most": 16_384}
_SHARE = 0.7
"""Of the free memory that a pass may take."""


@dataclass(frozen=True)
class Plan:
    """What `train --dry-run` says; what is not known is None."""

    config: TrainConfig
    rows: int
    tokens: int
    trained_tokens: int
    tasks: int
    eval_rows: int
    eval_tasks: list[str]
    dropped_too_long: int
    lost_tokens: dict[str, int]
    prompts: dict[str, int]
    epochs: int
    steps: int
    step_rows: float
    """Rows of a step, on average."""
    step_trained_tokens: float
    passes: int
    pass_tokens: int
    parameters: int | None
    memory: Memory | None
    free_memory: int | None
    checkpointing: bool
    read_tokens: int
    """Tokens of all epochs: what a hosted trainer bills, evaluations aside."""
    seconds: float | None
    usd: float | None
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        record = asdict(self) | {"config": self.config.model_dump(mode="json")}
        return record | {"memory": {**self.memory._asdict(), "total": self.memory.total} if self.memory else None}


def plan(prepared: Prepared[Any], usd_per_hour: float | None = None) -> Plan:
    """Nothing is loaded but the base's config; a second goes into the speed of this machine."""
    config, size = prepared.config, prepared.size
    steps = steps_of(prepared.rows, config)
    most, again = pass_tokens(prepared), again_needed(prepared)
    tokens = sum(row.length for row in prepared.rows)
    read = sum(step.tokens for step in steps)
    seconds = _seconds(prepared, read, again)
    return Plan(
        config=config,
        rows=size.rows,
        tokens=tokens,
        trained_tokens=size.trained,
        tasks=len(prepared.tasks),
        eval_rows=sum(map(len, prepared.held.values())),
        eval_tasks=list(prepared.held),
        dropped_too_long=prepared.made.too_long,
        lost_tokens=dict(prepared.made.lost),
        prompts=prepared.made.prompts,
        epochs=config.epochs or 1,
        steps=len(steps),
        step_rows=round(sum(len(step.rows) for step in steps) / len(steps), 2),
        step_trained_tokens=round(sum(step.trained for step in steps) / len(steps), 1),
        passes=sum(len(packs(prepared.rows, step.rows, most)) for step in steps),
        pass_tokens=most,
        parameters=prepared.parameters,
        memory=_memory(prepared, most, again),
        free_memory=free_memory(),
        checkpointing=again,
        read_tokens=read,
        seconds=seconds,
        usd=None if seconds is None or usd_per_hour is None else round(seconds / 3600 * usd_per_hour, 2),
        warnings=prepared.warnings(len(steps)),
    )


def pass_tokens(prepared: Prepared[Any]) -> int:
    """The most tokens of a pass of several rows; 1 where each has a pass of its own."""
    if prepared.config.method == "dpo":
        return 1
    if prepared.config.pass_tokens is not None:
        return prepared.config.pass_tokens
    if _device() == "cpu":
        return _PASS["small" if (prepared.parameters or SMALL) < SMALL else "cpu"]
    most = _PASS["most"]
    while most > _PASS["least"] and not _fits(prepared, most, False):
        most //= 2
    return most


def again_needed(prepared: Prepared[Any]) -> bool:
    """Whether activations are to be computed again: where those of the longest pass would not fit the memory."""
    wanted = prepared.config.checkpointing
    if wanted != "auto":
        return wanted == "on"
    longest = max(row.length for row in prepared.rows)
    return not _fits(prepared, max(longest, pass_tokens(prepared)), False)


def _fits(prepared: Prepared[Any], tokens: int, again: bool) -> bool:
    taken, free = _memory(prepared, tokens, again), free_memory()
    return taken is None or free is None or taken.total <= _SHARE * free


def _memory(prepared: Prepared[Any], tokens: int, again: bool) -> Memory | None:
    shape = shape_of(prepared.config.base)
    if shape is None:
        return None
    config, size = prepared.config, prepared.size
    share = size.trained / max(1, sum(row.length for row in prepared.rows))
    wide = config.precision == "fp32" or (
        config.precision == "auto" and usual_dtype(config.base, _device()) == "float32"
    )
    quantized = config.quantize == "4bit"
    return memory(
        shape, config.rank, tokens, int(tokens * share), wide=wide and not quantized, quantized=quantized, again=again
    )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _seconds(prepared: Prepared[Any], tokens: int, again: bool) -> float | None:
    """An estimate from the speed of matrix products here; None where the base's size is unknown."""
    if prepared.parameters is None:
        return None
    reference = prepared.config.method == "dpo"
    work = (FLOPS_A_TOKEN + 2 * again + 2 * reference) * prepared.parameters * tokens
    return round(work / (matmul_speed() * _EFFICIENCY[_device()]), 1)


def matmul_speed(seconds: float = 0.5) -> float:
    """Floating-point operations a second of a large matrix product, in the precision that training has here."""
    import torch

    gpu = _device() == "cuda"
    width, kind = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    left, right = (torch.randn(width, width, device=_device(), dtype=kind) for _ in range(2))
    left @ right
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        left @ right
        count += 1
        if gpu:
            torch.cuda.synchronize()
    return float(2 * width**3 * count / (time.monotonic() - began))
