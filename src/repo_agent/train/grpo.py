"""Method `grpo`: TRL's GRPOTrainer on single turns. A step draws a group of replies to each of a few recorded contexts
from the present weights, has them graded, and raises the probability of those that are better than their group.

Where all replies of a group have the same reward, nothing is learned from it: such groups are counted as silent. A step
of silent groups alone is no step. It would be one otherwise: the distance from the reference is then rounding, and Adam
makes a full step of any gradient, however small.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from repo_agent.chat.render import Renderer
from repo_agent.messages import digest, seed_of
from repo_agent.train.batches import Step
from repo_agent.train.config import TrainConfig
from repo_agent.train.environment import Ask, Drawn, Environment, Prompt
from repo_agent.train.measure import evaluating
from repo_agent.train.record import Say
from repo_agent.train.shared_prompt import log_probabilities
from repo_agent.train.step import Passes
from repo_agent.train.world import World

EVAL_SEED = "evaluation"
"""Replies of an evaluation are drawn with the same seeds each time, so that evaluations differ by the weights alone."""
SILENT = 0.9
"""Share of silent groups from which on a run says that it has learned next to nothing."""


class Tally(NamedTuple):
    """What came of some replies."""

    groups: int
    silent: int
    """Groups whose rewards are all equal."""
    reward: float
    """Mean."""
    valid: int
    scored: int
    """Replies that count for validity: all but finals where the tests pass, or where they end a rollout."""
    drawn: int
    """Tokens."""
    tokens: int
    """Read and drawn."""


@dataclass
class Practice:
    """Draws and grades replies: its `roll` is what TRL calls a `rollout_func`."""

    environment: Environment
    renderer: Renderer
    prompts: dict[int, list[int]]
    """Number of a context → its token ids."""
    config: TrainConfig
    tally: Tally | None = None
    """Of the last step."""

    def roll(self, asked: Sequence[str], trainer: Any) -> dict[str, Any]:
        """`asked` holds the number of a context for each reply, since a prompt is all that TRL hands on."""
        numbers, step = [int(one) for one in asked], trainer.state.global_step
        drawn, rewards, self.tally = self.play(trainer.model, numbers, str(step))
        return {
            "prompt_ids": [self.prompts[number] for number in numbers],
            "completion_ids": [one.ids for one in drawn],
            "logprobs": None,
            "env_mask": [[1] * len(one.ids) for one in drawn],
            "earned": rewards,
        }

    def play(self, model: Any, numbers: Sequence[int], when: str) -> tuple[list[Drawn], list[float], Tally]:
        """A reply to each numbered context, with its reward. Seeds follow from the run's seed, `when`, the context, and
        how often it has been asked before."""
        seen: Counter[int] = Counter()
        asks = []
        for number in numbers:
            key = self.environment.contexts[number].key
            asks.append(Ask(self.prompts[number], seed_of(self.config.seed, when, key, seen[number])))
            seen[number] += 1
        config = self.config
        with evaluating(model):
            drawn = self.environment.draw(model, self.renderer, asks, config.temperature, config.reply_tokens)
        graded = self.environment.grade(list(zip(numbers, drawn, strict=True)))
        rewards = [reward for reward, _ in graded] if when == EVAL_SEED else self._rewards(graded, when)
        return drawn, rewards, self._tally(numbers, drawn, rewards, [kind for _, kind in graded])

    def _rewards(self, graded: Sequence[tuple[float, str]], when: str) -> list[float]:
        """The rewards, or the placebo that `reward` puts in their place."""
        rewards = [reward for reward, _ in graded]
        if self.config.reward == "constant":
            return [1.0] * len(rewards)
        if self.config.reward == "shuffled":
            random.Random(digest([self.config.seed, when])).shuffle(rewards)
        return rewards

    def _tally(
        self, numbers: Sequence[int], drawn: Sequence[Drawn], rewards: Sequence[float], kinds: Sequence[str]
    ) -> Tally:
        groups: dict[int, set[float]] = {}
        for number, reward in zip(numbers, rewards, strict=True):
            groups.setdefault(number, set()).add(reward)
        count = sum(len(one.ids) for one in drawn)
        return Tally(
            len(groups),
            sum(len(found) == 1 for found in groups.values()),
            sum(rewards) / len(rewards),
            kinds.count("ok"),
            len(kinds) - kinds.count("final"),
            count,
            count + sum(len(self.prompts[number]) for number in groups),
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The replies to one context, as rows of what TRL has made of a step."""

    rows: slice
    length: int
    trained: int


class Replies(Passes[Group]):
    """The one step over replies that were drawn and graded; groups stay whole, and are put together into passes."""

    def __init__(self, made: dict[str, Any], groups: Sequence[Group], most: int, world: World, say: Say) -> None:
        trained, tokens = sum(group.trained for group in groups), sum(group.length for group in groups)
        super().__init__(groups, [Step(tuple(range(len(groups))), trained, tokens)], most, world, say)
        self.made = made

    def loss(self, trainer: Any, model: Any, bundle: list[Group], step: Step) -> Any:
        """TRL divides by the tokens of the whole step already."""
        import torch

        rows = torch.cat([torch.arange(group.rows.start, group.rows.stop) for group in bundle])
        part = {
            name: value[rows.to(value.device)] if torch.is_tensor(value) and value.dim() else value
            for name, value in self.made.items()
        }
        return trainer.compute_loss(model, part)


class GroupPasses(Passes[Prompt]):
    """Steps over contexts, to which replies are drawn when the step comes."""

    def __init__(
        self, practice: Practice, rows: Sequence[Prompt], steps: Sequence[Step], most: int, world: World, say: Say
    ) -> None:
        super().__init__(rows, steps, most, world, say)
        self.practice = practice

    def gradient(self, trainer: Any, model: Any, number: int) -> Any:
        import torch

        each = self.practice.config.generations
        numbers = [self.rows[index].number for index in self.steps[number].rows]
        made = trainer._generate_and_score_completions([{"prompt": str(n)} for n in numbers for _ in range(each)])
        tally = self.practice.tally
        if tally is None or tally.silent == tally.groups:
            return torch.zeros((), device=trainer.args.device)
        trained = made["completion_mask"].view(len(numbers), -1).sum(1).tolist()
        groups = [
            Group(
                slice(place * each, (place + 1) * each), len(self.practice.prompts[n]) + trained[place], trained[place]
            )
            for place, n in enumerate(numbers)
        ]
        replies = Replies(made, groups, self.most, self._world, self._say)
        loss = replies.gradient(trainer, model, 0)
        self.most = replies.most
        return loss

    @property
    def figures(self) -> dict[str, Any]:
        """Of the last step, as fields of a StepLoss."""
        found = self.practice.tally
        if found is None:
            return {}
        return {"tokens": found.tokens, "drawn": found.drawn, "reward": found.reward, "groups": found.groups,
                "silent": found.silent}  # fmt: skip


class HeldBack:
    """Contexts of tasks that are held back: at most so many, at even distances, and a group of replies to each."""

    def __init__(self, practice: Practice, numbers: Sequence[int], most: int) -> None:
        chosen = numbers if len(numbers) <= most else [numbers[len(numbers) * place // most] for place in range(most)]
        self._practice = practice
        self._asked = [number for number in chosen for _ in range(practice.config.generations)]

    def compare(self, model: Any) -> dict[str, Any]:
        """The fields of an Evaluation."""
        if not self._asked:
            return {}
        _, _, tally = self._practice.play(model, self._asked, EVAL_SEED)
        valid = tally.valid / tally.scored if tally.scored else None
        return {"reward": tally.reward, "validity": valid, "replayed": tally.scored}


def group_trainer() -> Any:
    """TRL's trainer in the order of our own steps, reading the prompt of a group once."""
    import transformers
    from trl import GRPOTrainer

    class GroupTrainer(GRPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return transformers.Trainer._get_train_sampler(self, dataset)

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *more: Any, **named: Any
        ) -> Any:
            if self.args.gradient_checkpointing:  # what computes activations again keeps no keys of a prompt
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *more, **named
                )
            with self.accelerator.autocast():
                return *log_probabilities(model, input_ids, attention_mask, logits_to_keep), None

    return GroupTrainer


def group_arguments(config: TrainConfig) -> dict[str, Any]:
    """TRL's configuration of the method. `dapo` is a mean over all tokens that were drawn in a step, so its division
    into passes changes rounding alone."""
    return {
        "per_device_train_batch_size": config.generations,
        "num_generations": config.generations,
        "max_completion_length": config.reply_tokens,
        "temperature": config.temperature,
        "beta": config.kl,
        "loss_type": "dapo",
        "scale_rewards": "group",
    }


def earned(completions: Sequence[Any], earned: Sequence[float], **_: Any) -> list[float]:
    """The reward function that TRL calls: rewards came with the replies."""
    return list(earned)


def silent_line(silent: int, groups: int) -> str | None:
    """What to say of a run in which so many groups were silent."""
    if not groups or silent < SILENT * groups:
        return None
    return (
        f"{silent} of {groups} groups had equal rewards and taught nothing: give contexts in which the model errs now"
        " and then (its own runs), more --generations, or a higher --temperature"
    )
