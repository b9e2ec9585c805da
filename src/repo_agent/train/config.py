"""What a training run is told."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from repo_agent.errors import UserError
from repo_agent.train.together_config import TogetherConfig


class TrainConfig(pydantic.BaseModel):
    """One training run. The defaults suit a 7B model; a tiny one wants a far higher `lr`, about 2e-3."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    base: str
    """`tiny`, a folder, or a hub name."""
    method: Literal["sft"] = "sft"
    epochs: int = pydantic.Field(3, ge=1)
    lr: float = pydantic.Field(1e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup: float = pydantic.Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises."""
    rank: int = pydantic.Field(16, ge=1)
    alpha: int = pydantic.Field(32, ge=1)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    target: str = "all-linear"
    """Which layers get an adapter, as PEFT's `target_modules` takes it."""
    seed: int = 0
    max_length: int = pydantic.Field(8192, ge=2)
    """Tokens. A row that is longer is dropped and counted, never cut."""
    batch_size: int = pydantic.Field(8, ge=1)
    """Rows an optimizer step; the loss is the mean over all their trained tokens."""
    batch_tokens: int | None = pydantic.Field(None, ge=1)
    """The most tokens, padding included, in one forward pass of more than one row. None: 8192 on a GPU, 1024 on the
    CPU, where a pass without padding is faster (its attention needs no mask and skips the upper triangle)."""

    together: TogetherConfig = TogetherConfig()
    """Of `--backend together` alone."""


def make_config(**settings: Any) -> TrainConfig:
    """A TrainConfig; a value that it does not take is a UserError that names the setting."""
    try:
        return TrainConfig(**settings)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        flag = "--" + "-".join(map(str, first["loc"][:2])).replace("_", "-")
        flag = flag.replace("--together-budget", "--budget")
        raise UserError(f"{first['msg']}, got {first['input']!r}", flag, "See repo-agent train --help") from error
