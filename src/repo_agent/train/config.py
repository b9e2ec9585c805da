"""What a training run is told: every field is a flag of `train` and a line of a TOML file, and all problems are listed
at once.

What a preset decides (`lr`, `epochs`, and how large a step is) stays None here until `presets.resolve` fills it in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from repo_agent.errors import UserError
from repo_agent.train.together.config import TogetherConfig

REPORTERS = ("tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "swanlab")


class TrainConfig(pydantic.BaseModel):
    """One training run."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    base: str
    """`tiny`, `smollm2`, a folder, or a hub name."""
    adapter: str | None = None
    """A folder that `train` wrote: its weights are trained on, where None makes a new adapter."""
    method: Literal["sft", "dpo"] = "sft"
    beta: float = pydantic.Field(0.1, gt=0)
    """Of dpo: how dearly it pays for a distance from the reference."""
    preset: Literal["recommended", "plan"] = "recommended"
    """What fills in the fields that are None; see `presets`."""
    epochs: int | None = pydantic.Field(None, ge=1)
    lr: float | None = pydantic.Field(None, gt=0, le=1)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup: float = pydantic.Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises."""
    rank: int = pydantic.Field(16, ge=1)
    alpha: int = pydantic.Field(32, ge=1)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    target: str = "all-linear"
    """Which layers get an adapter, as PEFT's `target_modules` takes it."""
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    max_length: int = pydantic.Field(8192, ge=2)
    """Tokens. A longer row ends after its last turn that fits; what is lost is counted."""
    step_tokens: int | None = pydantic.Field(None, ge=1)
    """Trained tokens that an optimizer step aims at."""
    batch_size: int | None = pydantic.Field(None, ge=1)
    """Rows an optimizer step, in place of `step_tokens`."""
    pass_tokens: int | None = pydantic.Field(None, ge=2)
    """The most tokens in one forward pass of more than one row; None: by the device. It changes speed and memory, never
    what a step learns."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 on a GPU and on a CPU with AMX, else fp32."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Gradient checkpointing: activations are computed again in the backward pass, at a third of the speed."""
    attention: Literal["auto", "varlen", "segments", "alone"] = "auto"
    """How rows of one pass are kept apart; see `attention`."""
    quantize: Literal["none", "4bit"] = "none"
    """4bit: a QLoRA, with bitsandbytes."""
    evals: int = pydantic.Field(4, ge=0)
    """Evaluations over the whole run, at even distances; 0: none, and no train task is held back."""
    eval_share: float = pydantic.Field(0.1, gt=0, le=0.5)
    """Share of the train tasks that are held back for them, at least one group of tasks."""
    replays: int = pydantic.Field(16, ge=0)
    """Recorded contexts of held-back tasks whose next call is drawn greedily and judged at each evaluation."""
    early_stop: int = pydantic.Field(2, ge=0)
    """Evaluations in a row without a lower `eval_nll` that end the run; 0: never."""
    checkpoints: int = pydantic.Field(10, ge=1)
    """Checkpoints over the whole run, beside those at evaluations."""
    report_to: tuple[str, ...] = ()
    """Trackers that transformers knows: tensorboard, wandb, mlflow, …; each is installed by you."""
    together: TogetherConfig = TogetherConfig()
    """Of `--backend together` alone."""

    @pydantic.field_validator("report_to")
    @classmethod
    def _known_reporters(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        odd = [name for name in names if name not in REPORTERS]
        if odd:
            raise ValueError(f"no tracker {odd[0]!r}; known: {', '.join(REPORTERS)}")
        return names


def make_config(given: Mapping[str, Any], file: Path | None = None) -> TrainConfig:
    """The config of a TOML file and of the flags that are not None; a flag goes before the file.

    Settings of `together` are flags by their own name or with `together_` before it. Raises UserError that lists
    everything that is wrong, each with its place.
    """
    problems: list[str] = []
    written = _read(file, problems) if file else {}
    flags = {name: value for name, value in given.items() if value is not None and value != []}
    hosted = {name: flags.pop(name) for name in list(flags) if name not in TrainConfig.model_fields}
    settings = {**written, **flags}
    table = settings.get("together", {})
    if isinstance(table, Mapping):
        settings["together"] = {**table, **{name.removeprefix("together_"): one for name, one in hosted.items()}}
    problems += _conflicts(settings)
    try:
        config = TrainConfig(**settings)
    except pydantic.ValidationError as error:
        places = {name: name for name in flags}
        places |= {f"together_{name.removeprefix('together_')}": name for name in hosted}
        problems += _problems(error, places, file)
    if problems:
        count = f"{len(problems)} settings are wrong" if len(problems) > 1 else "a setting is wrong"
        raise UserError(f"{count}: {'; '.join(problems)}", "train", "See repo-agent train --help")
    return config


def _read(file: Path, problems: list[str]) -> dict[str, Any]:
    """The table [train] of a TOML file, or the whole file where it has none."""
    try:
        record = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{file} cannot be read as TOML ({error})")
        return {}
    table = record.get("train", record)
    if not isinstance(table, dict):
        problems.append(f"{file}: train is no table")
        return {}
    odd = sorted(set(record) - {"train"}) if "train" in record else []
    problems += [f"{file}: no table {name}" for name in odd]
    return table


def _conflicts(settings: Mapping[str, Any]) -> Iterator[str]:
    """What no two settings may say together."""
    if settings.get("step_tokens") is not None and settings.get("batch_size") is not None:
        yield "--step-tokens and --batch-size both say how large a step is: give one of them"
    if settings.get("quantize") == "4bit" and settings.get("precision") == "fp32":
        yield "--quantize 4bit computes in bf16: leave out --precision fp32"


def _problems(error: pydantic.ValidationError, flags: Mapping[str, str], file: Path | None) -> Iterator[str]:
    """`flags`: place of a setting → the flag that gave it; what no flag gave is in the file."""
    for one in error.errors():
        place = [part for part in one["loc"][:2] if isinstance(part, str)]
        flag = flags.get("_".join(place))
        where = f"--{flag.replace('_', '-')}" if flag else f"{file}: {'.'.join(place)}"
        what = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            yield f"{where}: there is no such setting"
        elif one["type"] == "missing":
            yield f"--{'-'.join(place)} is missing"
        else:
            yield f"{where}: {what}, got {one['input']!r}"
