"""What an evaluation measures on train tasks that were held back.

`eval_nll` is the sum of the losses of all their trained tokens over the number of these tokens. TRL's `eval_loss` is
no such mean: it depends on how rows are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.trajectories import NextTurn
from repo_agent.train.batches import packs
from repo_agent.train.passes import summed_loss
from repo_agent.train.record import Evaluation

Probe = Callable[[Any, Renderer, Sequence[NextTurn], int], tuple[int, int]]
"""Asks a model for its next turn in at most so many recorded contexts: how many are valid calls, of how many."""


def token_nll(model: Any, tasks: Mapping[str, Sequence[Tokens]], most: int) -> tuple[float, dict[str, float]]:
    """Nats a trained token over all rows, and of each task. `most`: tokens of a pass, which changes rounding alone."""
    sums: dict[str, float] = {}
    counts = {task: sum(row.trained for row in rows) for task, rows in tasks.items()}
    with evaluating(model):
        for task, rows in tasks.items():
            divided = packs(rows, range(len(rows)), most)
            sums[task] = sum(summed_loss(model, [rows[index] for index in pack]) for pack in divided)
    whole = sum(sums.values()) / sum(counts.values())
    return whole, {task: sums[task] / counts[task] for task in sums}


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout, and without a trace in the random state of training."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        model.train(training)


class Evaluations:
    """The evaluations of a run, in order, and which one is the best."""

    def __init__(self, before: Sequence[Evaluation], patience: int) -> None:
        self.all, self._patience = list(before), patience

    def add(self, found: Evaluation) -> bool:
        """Whether it is the best so far after some training."""
        self.all.append(found)
        best = best_of(self.all)
        return best is found

    @property
    def enough(self) -> bool:
        """Whether so many in a row were no better than the best before them that the run should end."""
        best = best_of(self.all)
        later = [one for one in self.all if best and one.step > best.step]
        return bool(self._patience) and len(later) >= self._patience


def best_of(evals: Sequence[Evaluation]) -> Evaluation | None:
    """The one with the lowest score, the first of several; the one before training does not count."""
    known = [one for one in evals if one.step and one.score is not None]
    return min(known, key=lambda one: one.score or 0.0, default=None)
