"""What a training run is told, and what it leaves on record."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import pydantic

from repo_agent.errors import UserError

RECORD = "run_record.json"


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


class StepLoss(pydantic.BaseModel):
    """The loss of one optimizer step: nats a trained token."""

    step: int
    loss: float


class RunRecord(pydantic.BaseModel):
    """`run_record.json` of an adapter directory: enough to say what it was made of and to make it again."""

    format: int = 1
    config: TrainConfig
    dataset: str
    """Hash of the dataset's record, which holds the hashes of its files."""
    contract: str
    protocol: str
    base: str
    base_hash: str | None = None
    """Of its weights (see `train.base`); None in older records."""
    tokenizer: str
    """The renderer's fingerprint with the base's tokenizer."""
    seed: int
    device: str
    versions: dict[str, str]
    train_tasks: list[str]
    """Tasks that a trained row came from."""
    rows: int
    """Rows trained on: a trajectory gives one, or more where its prompts do not go on from each other."""
    dropped_too_long: int
    """Rows of which not one turn fits."""
    lost_tokens: dict[str, int] = {}
    """Tool → trained tokens lost with turns that did not fit a row."""
    prompts: dict[str, int] = {}
    """Prompts of trained turns against those that ran: equal, different, other_tokenizer, not_recorded."""
    tokens: int
    """Tokens of all rows, once."""
    trained_tokens: int
    """Those of them that carry loss."""
    losses: list[StepLoss]
    seconds: float
    """Wall time of the optimizer's steps, without imports, loading and saving."""


def versions() -> dict[str, str]:
    """The installed versions of what decides a training run's result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("repo-agent", "torch", "transformers", "trl", "peft")}


def make_config(**settings: Any) -> TrainConfig:
    """A TrainConfig; a value that it does not take is a UserError that names the setting."""
    try:
        return TrainConfig(**settings)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        flag = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise UserError(f"{first['msg']}, got {first['input']!r}", flag, "See repo-agent train --help") from error


def read_record(adapter: Path) -> RunRecord:
    """The record of an adapter directory. Raises UserError where there is none, or it is not one of ours."""
    try:
        return RunRecord.model_validate_json((adapter / RECORD).read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        remedy = "Give a directory that `repo-agent train` wrote"
        raise UserError(f"has no readable {RECORD}", str(adapter), remedy) from error


def adapter_hash(adapter: Path) -> str:
    """16 hex digits of the SHA-256 of an adapter's weights."""
    with (adapter / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
