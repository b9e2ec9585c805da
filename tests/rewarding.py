"""An environment for tests of training by reward: contexts of made trajectories, replies of the model, and a reward
that even random weights earn now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from test_train import trajectory

from repo_agent.chat.render import Renderer
from repo_agent.cli.environment import draw
from repo_agent.train.environment import Ask, Drawn, Recorded


class Letters:
    """A reply is worth 1 where its first token is of the lower half of the vocabulary."""

    executed = 0

    def __init__(self, tasks: int = 6) -> None:
        talks = [(str(number), trajectory(number, 2).messages) for number in range(tasks)]
        self.contexts = [Recorded(task, task, talk[:at], f"{task}:{at}") for task, talk in talks for at in (2, 4)]
        self.asked: list[tuple[int, list[int]]] = []
        """Number of a context, and the tokens of a reply to it, for all that were graded."""

    def draw(self, model: Any, renderer: Renderer, asks: Sequence[Ask], temperature: float, most: int) -> list[Drawn]:
        return draw(model, renderer, asks, temperature, most)

    def grade(self, replies: Sequence[tuple[int, Drawn]]) -> list[tuple[float, str]]:
        self.asked += [(number, drawn.ids) for number, drawn in replies]
        return [(1.0, "ok") if drawn.ids[0] < 192 else (0.0, "no_call") for _, drawn in replies]
