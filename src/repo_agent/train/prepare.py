"""From a dataset directory to what a run learns from and what it is evaluated on, and what that will take."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from repo_agent.chat.base import base_hash
from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.dataset import Dataset, read_dataset
from repo_agent.data.pair_set import RECORD as PAIRS_RECORD
from repo_agent.data.pair_set import PairSet, read_pairs
from repo_agent.data.pair_tokens import TokenPair, pair_rows
from repo_agent.data.tokens import Rows, TrainingRows, training_rows
from repo_agent.data.trajectories import NextTurn
from repo_agent.errors import UserError
from repo_agent.messages import Message, digest, tilde
from repo_agent.train.batches import Row
from repo_agent.train.config import TrainConfig
from repo_agent.train.environment import Environment, Prompt, prompt_rows
from repo_agent.train.presets import Size, resolve, warnings
from repo_agent.train.sizes import check_target, config_of, parameters_of
from repo_agent.train.start import Start, begun, start_of

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Prepared(ABC, Generic[R]):
    """Data made ready for one base: rows to train on, and those of train tasks that are held back."""

    dataset: Dataset | PairSet
    renderer: Renderer
    made: Rows[R]
    held_groups: frozenset[str]
    parameters: int | None
    """Of the base; None where its config is not on this machine."""
    config: TrainConfig
    """With everything decided."""
    start: Start | None
    """The adapter that training begins with."""

    @cached_property
    def rows(self) -> list[R]:
        """Rows to train on."""
        return [row for row, (_, group) in self._pairs() if group not in self.held_groups]

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks that a trained row comes from."""
        return sorted({task for _, (task, group) in self._pairs() if group not in self.held_groups})

    @cached_property
    def held_rows(self) -> dict[str, list[R]]:
        """Task → rows that are held back."""
        found: dict[str, list[R]] = {}
        for row, (task, group) in self._pairs():
            if group in self.held_groups:
                found.setdefault(task, []).append(row)
        return dict(sorted(found.items()))

    @property
    @abstractmethod
    def held(self) -> dict[str, list[Tokens]]:
        """Task → the rows that `eval_nll` is of."""

    @abstractmethod
    def held_turns(self) -> Iterator[NextTurn]:
        """The contexts in which good turns of held-back tasks were made, once each."""

    @abstractmethod
    def openings(self) -> Iterator[tuple[str, Sequence[Message]]]:
        """Of each trajectory or pair that is trained on its task, and what stands before its first trained turn."""

    @property
    def size(self) -> Size:
        return Size(self.parameters, len(self.rows), sum(row.trained for row in self.rows))

    def warnings(self, steps: int) -> list[str]:
        """What to say before a run of so many steps is paid for."""
        return [*warnings(self.config, self.parameters, steps), *remarks(self.dataset)]

    def _pairs(self) -> Iterable[tuple[R, tuple[str, str]]]:
        return zip(self.made.rows, self.made.tasks, strict=True)


class PreparedTurns(Prepared[Tokens]):
    """A dataset's trajectories."""

    dataset: Dataset

    @property
    def held(self) -> dict[str, list[Tokens]]:
        return self.held_rows

    def held_turns(self) -> Iterator[NextTurn]:
        for one in self.dataset.trajectories():
            if one.group in self.held_groups:
                yield from (NextTurn(one.messages[: turn.at], one.contract) for turn in one.kept if turn.call)

    def openings(self) -> Iterator[tuple[str, Sequence[Message]]]:
        for one in self.dataset.trajectories():
            if one.kept and one.group not in self.held_groups:
                yield one.task, one.messages[: one.kept[0].at]


@dataclass(frozen=True)
class PreparedContexts(Prepared[Prompt]):
    """Recorded contexts of a dataset's train tasks; `eval_nll` is of the dataset's own rows."""

    dataset: Dataset
    environment: Environment
    turns: TrainingRows

    @property
    def held(self) -> dict[str, list[Tokens]]:
        found: dict[str, list[Tokens]] = {}
        for row, (task, group) in zip(self.turns.rows, self.turns.tasks, strict=True):
            if group in self.held_groups:
                found.setdefault(task, []).append(row)
        return dict(sorted(found.items()))

    def held_turns(self) -> Iterator[NextTurn]:
        """None: replies are drawn in the contexts of the runs."""
        return iter(())

    def openings(self) -> Iterator[tuple[str, Sequence[Message]]]:
        """The shortest context of each task comes first."""
        for row in sorted(self.rows, key=lambda row: len(row.input_ids)):
            context = self.environment.contexts[row.number]
            yield context.task, context.messages

    def warnings(self, steps: int) -> list[str]:
        count, runs = len(self.environment.contexts), self.environment.executed
        judged = [
            f"the calls of replies run in {runs} of {count} contexts; in the others they are judged by their form"
        ]
        return [*super().warnings(steps), *(judged if runs < count else [])]


class PreparedPairs(Prepared[TokenPair]):
    """A folder's preference pairs."""

    dataset: PairSet

    @property
    def held(self) -> dict[str, list[Tokens]]:
        return {task: [pair.chosen for pair in pairs] for task, pairs in self.held_rows.items()}

    def held_turns(self) -> Iterator[NextTurn]:
        seen: set[str] = set()
        for pair in self.dataset.pairs():
            if pair.record["group"] not in self.held_groups:
                continue
            context = digest([message.to_dict() for message in pair.context])
            if context not in seen:
                seen.add(context)
                yield NextTurn(pair.context, self.dataset.contract)

    def openings(self) -> Iterator[tuple[str, Sequence[Message]]]:
        for pair in self.dataset.pairs():
            if pair.record["group"] not in self.held_groups:
                yield pair.record["task"], pair.context


def prepare(folder: Path, config: TrainConfig, environment: Environment | None = None) -> Prepared[Any]:
    """Read, render and divide a dataset, or what another method learns from: a folder of pairs, an environment.

    Raises UserError for data, base or adapter that are not there or do not fit each other, a `target` that names no
    layer of the base, a prompt that renders otherwise than it ran, rows that are all too long.
    """
    data = read_data(folder, config)
    renderer = Renderer(load_tokenizer(config.base), data.contract.printed_tools)
    check_target(config.base, config.target)
    made: Rows[Any] = (
        training_rows(data, renderer, config.max_length)
        if isinstance(data, Dataset)
        else pair_rows(data, renderer, config.max_length)
    )
    kind: Callable[..., Prepared[Any]] = PreparedTurns if isinstance(data, Dataset) else PreparedPairs
    known = {group for _, group in made.tasks}
    if config.method == "grpo":
        assert environment is not None and isinstance(made, TrainingRows)
        kind = partial(PreparedContexts, environment=environment, turns=made)
        made = prompt_rows(environment, renderer, _longest(config), config.reply_tokens, config.generations)
    if not made.rows and not made.too_long:
        raise UserError("holds nothing to train on", str(folder), "Make it again")
    if not made.rows:
        raise UserError(f"all {made.too_long} rows are too long", str(folder), "Raise --max-length")
    start = start_of(config, data.record["contract"], {task for task, _ in made.tasks})
    groups = sorted({group for _, group in made.tasks} & known)
    held = held_back(groups, config.eval_share, config.seed) if config.evals else frozenset()
    found = kind(data, renderer, made, held, parameters_of(config.base), begun(config, start), start)
    return replace(found, config=resolve(found.config, found.size))


def read_data(folder: Path, config: TrainConfig) -> Dataset | PairSet:
    """What the method of a config learns from. Raises UserError for another folder."""
    if config.method == "dpo":
        return read_pairs(folder)
    if (folder / PAIRS_RECORD).is_file():
        raise UserError("holds preference pairs", str(folder), "Give --method dpo, or a folder that `build` made")
    return read_dataset(folder)


def _longest(config: TrainConfig) -> int:
    """Tokens of the longest prompt and reply: what the base can read, or less by `max_length`."""
    found = config_of(config.base)
    return min(config.max_length, getattr(found, "max_position_embeddings", None) or config.max_length)


def held_back(groups: list[str], share: float, seed: int) -> frozenset[str]:
    """The groups of tasks to evaluate on: so large a share, at least one, and never the only one."""
    count = min(max(1, math.floor(share * len(groups) + 0.5)), len(groups) - 1)
    return frozenset(sorted(groups, key=lambda group: digest([seed, group]))[: max(0, count)])


def remarks(dataset: Dataset | PairSet) -> list[str]:
    """What to say of a dataset that holds no task out, or is no longer what was made."""
    said = []
    if not dataset.record.get("split"):
        said.append("the dataset holds no task out (--no-split): what you evaluate on may be among its rows")
    if dataset.hash != digest(dataset.record):
        said.append(
            "its rows were edited since they were made: its card and its funnel do not tell of them as they are"
        )
    return said


def origin(
    dataset: Dataset | PairSet, config: TrainConfig, renderer: Renderer, start: Start | None = None
) -> dict[str, Any]:
    """The fields of a RunRecord that follow from data, base, settings and the adapter that it began with, wherever it
    is trained."""
    record, before = dataset.record, start.record if start else None
    prompts = [one["hash"] for one in record.get("prompts", ())]
    return {
        "config": config.model_copy(update={"base": tilde(config.base)}),
        "dataset": dataset.hash,
        "contract": record["contract"],
        "protocol": record["protocol"],
        "base": tilde(config.base),
        "base_hash": base_hash(config.base),
        "adapter_hash": start.hash if start else None,
        "tokenizer": renderer.fingerprint(),
        "seed": config.seed,
        "held_out": (record.get("split") or {}).get("held_out"),
        "system_prompts": prompts or (before.system_prompts if before else []),
    }


def trained_tasks(tasks: Iterable[str], start: Start | None) -> list[str]:
    """Every task that has had a part in the weights: these, and those of the adapter that training began with."""
    return sorted({*tasks, *(start.record.seen_tasks if start else ())})
