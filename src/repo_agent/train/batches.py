"""Which rows an optimizer step learns from, and how they are divided into forward passes.

Steps come first: which rows a step holds follows from the rows, the seed and the step's size alone. How a step is then
divided, over processes and into packs of at most so many tokens, changes speed and memory and never what is learned.
Nothing is cut: a row that is longer than a pass is a pass by itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from repo_agent.messages import digest
from repo_agent.train.config import TrainConfig
from repo_agent.train.presets import steps_an_epoch


class Row(Protocol):
    """What a run learns from, and how many tokens it has; of pairs, both turns."""

    @property
    def length(self) -> int: ...

    @property
    def trained(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: indices of its rows, and their trained tokens, over which the loss is a mean."""

    rows: tuple[int, ...]
    trained: int
    tokens: int


def steps_of(rows: Sequence[Row], config: TrainConfig) -> list[Step]:
    """All steps of a run, in order: every row once an epoch, shuffled anew for each.

    `config` is resolved: it has epochs, and a step's size in rows or in trained tokens.
    """
    found = []
    for epoch in range(config.epochs or 1):
        order = list(range(len(rows)))
        random.Random(digest([config.seed, epoch])).shuffle(order)
        found += [_step(rows, part) for part in _parts(rows, order, config)]
    return found


def _parts(rows: Sequence[Row], order: list[int], config: TrainConfig) -> list[list[int]]:
    """The rows of an epoch's steps: each so many, or cut where the trained tokens so far reach the step's share."""
    if config.batch_size is not None:
        return [order[at : at + config.batch_size] for at in range(0, len(order), config.batch_size)]
    total = sum(row.trained for row in rows)
    count = steps_an_epoch(config, len(rows), total)
    parts: list[list[int]] = [[]]
    seen = 0
    for place, index in enumerate(order):
        # The step ends before a row whose middle lies beyond its share, and where the rest has just a row for each.
        left = len(order) - place
        full = seen + rows[index].trained / 2 > total * len(parts) / count or left <= count - len(parts)
        if parts[-1] and full and len(parts) < count:
            parts.append([])
        parts[-1].append(index)
        seen += rows[index].trained
    return parts


def _step(rows: Sequence[Row], part: Sequence[int]) -> Step:
    return Step(tuple(part), sum(rows[i].trained for i in part), sum(rows[i].length for i in part))


def shares(rows: Sequence[Row], step: Step, processes: int) -> list[list[int]]:
    """A step's rows divided over processes, each given about as many tokens; a process may get none."""
    found: list[list[int]] = [[] for _ in range(processes)]
    load = [0] * processes
    for index in sorted(step.rows, key=lambda row: (-rows[row].length, row)):
        least = load.index(min(load))
        found[least].append(index)
        load[least] += rows[index].length
    return found


def packs(rows: Sequence[Row], part: Sequence[int], most: int) -> list[list[int]]:
    """Rows put together into passes of at most `most` tokens: the longest first, each into the first pass with room."""
    found: list[list[int]] = []
    room: list[int] = []
    for index in sorted(part, key=lambda row: (-rows[row].length, row)):
        length = rows[index].length
        place = next((place for place, left in enumerate(room) if left >= length), None)
        if place is None:
            found.append([index])
            room.append(most - length)
        else:
            found[place].append(index)
            room[place] -= length
    return found
