"""Preferences: TRL's DPO loss on pairs that our own renderer has tokenised, one pair a pass.

The reference is what training begins with, an SFT adapter or the base: TRL keeps it as a second, frozen adapter. Both
turns of a pair have one context, so a pass reads the context twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from repo_agent.data.pair_tokens import TokenPair
from repo_agent.errors import InfraError
from repo_agent.train.batches import Step
from repo_agent.train.measure import evaluating
from repo_agent.train.passes import summed_loss
from repo_agent.train.step import Passes


class PairPasses(Passes[TokenPair]):
    """Passes of one pair each; the loss of a step is the mean over its pairs, on all processes."""

    def bundles(self, divided: list[list[list[int]]]) -> list[list[TokenPair]]:
        """Every process makes as many passes as the one with the most: TRL gathers its figures at each of them."""
        own = [[self.rows[index] for index in pack] for pack in divided[self._world.rank]]
        return own + [[]] * (max(map(len, divided)) - len(own))

    def loss(self, trainer: Any, model: Any, bundle: list[TokenPair], step: Step) -> Any:
        """A process without a pair for this pass takes the first one, and nothing of its loss."""
        inputs = collated(bundle or self.rows[:1], trainer)
        return trainer.compute_loss(model, inputs) * len(bundle) / len(step.rows)


def collated(pairs: Sequence[TokenPair], trainer: Any) -> dict[str, Any]:
    """What TRL's loss takes of some pairs: the chosen rows above the rejected ones, padded."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    made = DataCollatorForPreference(pad_token_id=trainer.processing_class.eos_token_id)(
        [
            {
                "prompt_ids": pair.chosen.input_ids[: pair.chosen.spans[0].start],
                "chosen_ids": pair.chosen.input_ids[pair.chosen.spans[0].start :],
                "rejected_ids": pair.rejected.input_ids[pair.rejected.spans[0].start :],
            }
            for pair in pairs
        ]
    )
    return {name: tensor.to(trainer.args.device) for name, tensor in made.items()}


def check_reference(trainer: Any, pairs: Sequence[TokenPair]) -> None:
    """Raise InfraError where a reward is not exactly 0 before the first step: the reference is another model then."""
    import torch

    with torch.no_grad(), trainer.compute_loss_context_manager():
        for pair in pairs:
            trainer.compute_loss(trainer.model, collated([pair], trainer))
    figures = trainer._metrics["train" if trainer.model.training else "eval"]
    rewards = [*figures["rewards/chosen"], *figures["rewards/rejected"]]
    figures.clear()
    if any(rewards):
        raise InfraError(
            "train", f"the reference is not what training begins with: rewards of {max(map(abs, rewards))}"
        )


class Reference:
    """The pairs that are held back, and what the reference gives each turn before training."""

    def __init__(self, model: Any, tasks: dict[str, list[TokenPair]], beta: float) -> None:
        self._pairs = [pair for pairs in tasks.values() for pair in pairs]
        self._beta, self._before = beta, self._logs(model)

    def compare(self, model: Any) -> dict[str, float]:
        """The fields of an Evaluation."""
        margins = [
            self._beta * ((chosen - chosen_before) - (rejected - rejected_before))
            for (chosen, rejected), (chosen_before, rejected_before) in zip(
                self._logs(model), self._before, strict=True
            )
        ]
        count = len(margins)
        return {
            "preference_loss": sum(softplus(-margin) for margin in margins) / count,
            "margin": sum(margins) / count,
            "preferred": sum(margin > 0 for margin in margins) / count,
        }

    def _logs(self, model: Any) -> list[tuple[float, float]]:
        """Log-probabilities of the chosen and the rejected turn of each pair."""
        with evaluating(model):
            return [(-summed_loss(model, [pair.chosen]), -summed_loss(model, [pair.rejected])) for pair in self._pairs]


def softplus(x: float) -> float:
    """log(1 + e^x); -log sigmoid(x) is softplus(-x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
