"""From a dataset directory to what a run learns from and what it is evaluated on, and what that will take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from repo_agent.chat.base import base_hash
from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.dataset import Dataset, read_dataset
from repo_agent.data.tokens import TrainingRows, training_rows
from repo_agent.data.trajectories import Trajectory
from repo_agent.errors import UserError
from repo_agent.messages import digest, tilde
from repo_agent.train.config import TrainConfig
from repo_agent.train.presets import Size, resolve, warnings
from repo_agent.train.sizes import check_target, parameters_of


@dataclass(frozen=True)
class Prepared:
    """A dataset's rows for one base: those to train on, and those of train tasks that are held back."""

    dataset: Dataset
    renderer: Renderer
    made: TrainingRows
    held_groups: frozenset[str]
    parameters: int | None
    """Of the base; None where its config is not on this machine."""
    config: TrainConfig
    """With everything decided."""

    @cached_property
    def rows(self) -> list[Tokens]:
        """Rows to train on."""
        return [row for row, (_, group) in self._pairs() if group not in self.held_groups]

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks that a trained row comes from."""
        return sorted({task for _, (task, group) in self._pairs() if group not in self.held_groups})

    @cached_property
    def held(self) -> dict[str, list[Tokens]]:
        """Task → rows that are held back."""
        found: dict[str, list[Tokens]] = {}
        for row, (task, group) in self._pairs():
            if group in self.held_groups:
                found.setdefault(task, []).append(row)
        return dict(sorted(found.items()))

    @property
    def size(self) -> Size:
        return Size(self.parameters, len(self.rows), sum(row.trained for row in self.rows))

    def warnings(self, steps: int) -> list[str]:
        """What to say before a run of so many steps is paid for."""
        return [*warnings(self.config, self.parameters, steps), *unsplit(self.dataset)]

    def held_trajectories(self) -> Iterator[Trajectory]:
        return (one for one in self.dataset.trajectories() if one.group in self.held_groups)

    def _pairs(self) -> Iterable[tuple[Tokens, tuple[str, str]]]:
        return zip(self.made.rows, self.made.tasks, strict=True)


def prepare(folder: Path, config: TrainConfig) -> Prepared:
    """Read, render and divide a dataset.

    Raises UserError for a dataset or base that is not there, a `target` that names no layer of it, a prompt that
    renders otherwise than it ran, rows that are all too long.
    """
    dataset = read_dataset(folder)
    renderer = Renderer(load_tokenizer(config.base), dataset.contract.printed_tools)
    check_target(config.base, config.target)
    made = training_rows(dataset, renderer, config.max_length)
    if not made.rows:
        raise UserError(f"all {made.too_long} rows are too long", str(folder), "Raise --max-length")
    groups = sorted({group for _, group in made.tasks})
    held = held_back(groups, config.eval_share, config.seed) if config.evals else frozenset()
    found = Prepared(dataset, renderer, made, held, parameters_of(config.base), config)
    return Prepared(dataset, renderer, made, held, found.parameters, resolve(config, found.size))


def held_back(groups: list[str], share: float, seed: int) -> frozenset[str]:
    """The groups of tasks to evaluate on: so large a share, at least one, and never the only one."""
    count = min(max(1, math.floor(share * len(groups) + 0.5)), len(groups) - 1)
    return frozenset(sorted(groups, key=lambda group: digest([seed, group]))[: max(0, count)])


def unsplit(dataset: Dataset) -> list[str]:
    """What to say of a dataset that holds no task out."""
    if dataset.record.get("split"):
        return []
    return ["the dataset holds no task out (build --no-split): what you evaluate on may be among its rows"]


def origin(dataset: Dataset, config: TrainConfig, renderer: Renderer) -> dict[str, Any]:
    """The fields of a RunRecord that follow from dataset, base and settings, wherever it is trained."""
    record = dataset.record
    return {
        "config": config.model_copy(update={"base": tilde(config.base)}),
        "dataset": digest(record),
        "contract": record["contract"],
        "protocol": record["protocol"],
        "base": tilde(config.base),
        "base_hash": base_hash(config.base),
        "tokenizer": renderer.fingerprint(),
        "seed": config.seed,
        "held_out": (record.get("split") or {}).get("held_out"),
        "system_prompts": [one["hash"] for one in record.get("prompts", ())],
    }
