"""What a training run leaves on record: `run_record.json` of an adapter directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pydantic

from repo_agent.errors import UserError
from repo_agent.train.config import TrainConfig

RECORD = "run_record.json"
Say = Callable[[str], None]
"""Tells the user a line."""


class OnStep(Protocol):
    """Is called after each optimizer step: the step, how many there are, its loss, and the speed where it is known."""

    def __call__(self, step: int, total: int, loss: float, tokens_per_second: float | None = None) -> None: ...


class StepLoss(pydantic.BaseModel):
    """One optimizer step; what a backend does not report is None."""

    step: int
    loss: float
    """Nats a trained token; of preferences, a pair."""
    margin: float | None = None
    """Of preferences: how much more the reward of the chosen turns has grown than that of the rejected ones, which is
    beta times the log-probability that a turn has won against the reference."""
    lr: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    """All tokens that were read, with loss or without."""
    seconds: float | None = None


class Evaluation(pydantic.BaseModel):
    """One evaluation on train tasks that were held back, after so many optimizer steps."""

    step: int
    eval_nll: float | None
    """Nats a trained token, over all their trained tokens, whatever the batch."""
    tasks: dict[str, float] = {}
    """The same of each task."""
    validity: float | None = None
    """Share of replayed contexts whose next call, drawn greedily, is valid; None: nothing was replayed."""
    replayed: int = 0
    preference_loss: float | None = None
    """Of preferences: nats a pair that is held back, -log sigmoid(margin)."""
    margin: float | None = None
    """Their mean margin."""
    preferred: float | None = None
    """Share of them whose margin is above 0."""

    @property
    def score(self) -> float | None:
        """What the best evaluation has least of."""
        return self.eval_nll if self.preference_loss is None else self.preference_loss


class Hosted(pydantic.BaseModel):
    """A training run on a host's machines."""

    job: str
    model: str
    """The base's name there."""
    price_usd: float | None
    """What the host says that it cost, and before that what it would; None where it did not say."""
    estimate_usd: float | None
    left_out: int
    """Rows that the host would have tokenised otherwise than they run."""
    preview: dict[str, Any]
    """How many rows and tokens the host's own rendering was compared on."""


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
    """Of its weights (see `chat.base`); None in older records."""
    adapter_hash: str | None = None
    """Of the adapter that the run began with; None where it made a new one."""
    tokenizer: str
    """The renderer's fingerprint with the base's tokenizer."""
    seed: int
    device: str
    versions: dict[str, str]
    train_tasks: list[str]
    """Tasks that a trained row came from, of this run and of those that made the adapter that it began with."""
    held_out: list[str] | None = None
    """Tasks that the dataset holds out; None where it has no split, and in older records."""
    rows: int
    """Rows trained on: a trajectory gives one, or more where its prompts do not continue each other."""
    dropped_too_long: int
    """Rows of which not one turn fits."""
    lost_tokens: dict[str, int] = {}
    """Tool → trained tokens lost with turns that did not fit a row."""
    system_prompts: list[str] = []
    """Hashes of the dataset's system prompts, the most frequent first; empty in older records."""
    prompts: dict[str, int] = {}
    """Prompts of trained turns against those that ran: equal, different, other_tokenizer, not_recorded."""
    tokens: int
    """Tokens of all rows, once."""
    trained_tokens: int
    """Those of them that carry loss."""
    losses: list[StepLoss]
    seconds: float | None
    """Wall time of the optimizer's steps, without imports, loading and saving; None where a host did not say."""
    hosted: Hosted | None = None
    """None of a run on this machine."""
    eval_tasks: list[str] = []
    """Train tasks that were held back for the evaluations."""
    evals: list[Evaluation] = []
    best_step: int | None = None
    """The step whose weights these are, where evaluations chose; None: the last."""
    stopped_early: bool = False
    resumed_at: list[int] = []
    """Steps after which the run was interrupted and resumed."""
    processes: int = 1
    precision: str | None = None
    attention: str | None = None
    pass_tokens: int | None = None
    """At the end of the run: it halves where memory does not hold a pass."""
    peak_memory: int | None = None
    """Bytes on the GPU of the main process."""
    served_form: str | None = None
    """How these weights are to be served: the base's precision, with this adapter."""
    served_nll: float | None = None
    """Their `eval_nll` in that form."""

    @property
    def seen_tasks(self) -> list[str]:
        """Every task that had a part in these weights, by its loss or by the choice of a checkpoint."""
        return sorted({*self.train_tasks, *self.eval_tasks})

    @pydantic.model_validator(mode="before")
    @classmethod
    def _older(cls, record: Any) -> Any:
        """Older records call `pass_tokens` otherwise."""
        config = record.get("config") if isinstance(record, dict) else None
        if isinstance(config, dict) and "batch_tokens" in config:
            config = {**config, "pass_tokens": config["batch_tokens"]}
            del config["batch_tokens"]
            return {**record, "config": config}
        return record


def versions() -> dict[str, str]:
    """The installed versions of what decides a training run's result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("repo-agent", "torch", "transformers", "trl", "peft")}


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
