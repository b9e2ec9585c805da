"""What `--preset` fills in: a learning rate, epochs, and how many trained tokens a step aims at.

`recommended` goes by the size of the base and the number of steps. Sources: "LoRA Without Regret" (Thinking Machines,
2025: about 10 times the rate of full fine-tuning, 15 times in runs of under 100 steps, little influence of the rank,
less tolerance for large batches), the sweep of tinker-cookbook (3e-4 to 1e-3 for 4B to 32B), and three runs on
SmolLM2-135M (see `MOVES`). `plan` is what teams often begin with (docs/training.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from repo_agent.train.config import TrainConfig

RATES = ((50e6, 2e-3), (1e9, 1e-3), (4e9, 5e-4), (math.inf, 2e-4))
"""Parameters of the base up to which a rate holds."""
FEW_STEPS, FEW_STEPS_FACTOR = 100, 1.5
MOST_STEP_TOKENS, LEAST_STEP_TOKENS = 8192, 512
EPOCHS = 3
PLAN_LR, PLAN_BATCH = 1e-5, 8
MOVES = 5e-3
"""Sum of the rates of all steps under which a LoRA of alpha = 2 rank hardly moves a base: on SmolLM2-135M runs with
2e-4 taught nothing, 4e-3 a quarter, 2e-2 three quarters."""
PAIR_EPOCHS, PAIR_BATCH, PAIR_RATE = 1, 8, 0.1
"""Of preferences: epochs, pairs of a step, and the rate as a share of what it is for turns."""
_MEAN = {"linear": 0.5, "cosine": 0.5, "constant_with_warmup": 1.0}
"""Mean of a schedule, as a share of its peak."""


class Size(NamedTuple):
    """What a preset decides by."""

    parameters: int | None
    """Of the base; None where they are unknown."""
    rows: int
    trained: int
    """Trained tokens of an epoch."""


def resolve(config: TrainConfig, size: Size) -> TrainConfig:
    """The config with everything decided."""
    if config.method == "dpo":
        return _of_pairs(config, size)
    if config.preset == "plan":
        batch = PLAN_BATCH if config.step_tokens is None else None
        return config.model_copy(
            update={
                "epochs": config.epochs or EPOCHS,
                "lr": config.lr or PLAN_LR,
                "batch_size": config.batch_size or batch,
            }
        )
    epochs = config.epochs or EPOCHS
    step_tokens = config.step_tokens
    if step_tokens is None and config.batch_size is None:
        wanted = size.trained * epochs // FEW_STEPS
        step_tokens = max(LEAST_STEP_TOKENS, min(MOST_STEP_TOKENS, wanted))
    settled = config.model_copy(update={"epochs": epochs, "step_tokens": step_tokens})
    rate = config.lr or recommended_rate(size.parameters, steps(settled, size))
    return settled.model_copy(update={"lr": rate})


def _of_pairs(config: TrainConfig, size: Size) -> TrainConfig:
    """A step is so many pairs, whatever their tokens, unless `step_tokens` says otherwise."""
    plan = config.preset == "plan"
    rate = PLAN_LR if plan else PAIR_RATE * recommended_rate(size.parameters, FEW_STEPS)
    batch = None if config.step_tokens is not None else PAIR_BATCH
    settled = {
        "epochs": config.epochs or PAIR_EPOCHS,
        "lr": config.lr or rate,
        "batch_size": config.batch_size or batch,
    }
    return config.model_copy(update=settled)


def steps(config: TrainConfig, size: Size) -> int:
    """Optimizer steps of a resolved config."""
    return steps_an_epoch(config, size.rows, size.trained) * (config.epochs or 1)


def steps_an_epoch(config: TrainConfig, rows: int, trained: int) -> int:
    """Optimizer steps of one pass over so many rows with so many trained tokens."""
    if config.batch_size is not None:
        return math.ceil(rows / config.batch_size)
    return max(1, min(rows, round(trained / (config.step_tokens or trained))))


def recommended_rate(parameters: int | None, steps: int) -> float:
    """The peak rate for a base of so many parameters; of a base of unknown size that of a 7B."""
    rate = next(rate for most, rate in RATES if (parameters or 7e9) <= most)
    large = (parameters or 7e9) > RATES[2][0]
    return rate * FEW_STEPS_FACTOR if large and steps < FEW_STEPS else rate


def warnings(config: TrainConfig, parameters: int | None, count: int) -> list[str]:
    """What to say before a run of so many steps, with a resolved config, is paid for."""
    found: list[str] = []
    if config.method == "dpo":
        return found
    rate = config.lr or 0.0
    moved = rate * count * _MEAN[config.schedule] * config.alpha / config.rank / 2
    usual = recommended_rate(parameters, count)
    if config.preset == "plan" and config.lr == PLAN_LR:
        found.append(
            f"the plan's rate of {PLAN_LR:g} is {usual / PLAN_LR:.0f} times under what --preset recommended takes here;"
            " published optima for a LoRA are 30 to 100 times above the plan's"
        )
    if moved < MOVES:
        rather = (
            "more epochs, or more rows" if rate >= usual else f"raise --lr towards {usual:g}, or the number of steps"
        )
        found.append(
            f"{count} steps at a peak rate of {rate:g} add up to {moved:.1g}: too little to move the model"
            f" (under {MOVES:g}); {rather}"
        )
    elif rate > 5 * usual:
        found.append(
            f"a rate of {rate:g} is {rate / usual:.0f} times what is usual for this base: training may diverge"
        )
    return found
