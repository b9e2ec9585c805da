"""What a model is trained in by reward: recorded contexts, replies drawn from its present weights, and their rewards.

The prompt of a reply is what the model would be prompted with when it runs, and the tokens that are trained are the
tokens that were drawn, with the one that ended the turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.data.dataset import read_dataset
from repo_agent.errors import UserError
from repo_agent.models.batch import Batch, Row
from repo_agent.models.local import ends_of, free_room
from repo_agent.protocols import PROTOCOLS
from repo_agent.protocols.contract import Contract
from repo_agent.rollout.contexts import contexts_of
from repo_agent.rollout.rewards import Grader, Reply
from repo_agent.train.config import TrainConfig
from repo_agent.train.environment import Ask, Drawn, Recorded

ROWS = 64
"""Replies that are drawn at once."""


class Recordings:
    """The contexts of some runs; see `train.environment`."""

    def __init__(self, paths: Sequence[Path], tasks: Collection[str], per_task: int, contract: Contract) -> None:
        """Raises UserError where the runs hold no context of these tasks, or another contract."""
        where = " ".join(map(str, paths))
        if contract.protocol not in PROTOCOLS or contract.protocol == "native":
            what = f"a reply of the protocol {contract.protocol} is more than its tokens"
            raise UserError(what, "--method grpo", "Use a dataset of the protocol json or hermes")
        found = contexts_of(paths, tasks, per_task)
        if not found.by_task:
            raise UserError("hold no context of a train task", where, "Give runs of the dataset's train tasks")
        if found.contract.hash != contract.hash:
            what = f"were made for other tools or another protocol ({found.contract.hash}, not {contract.hash})"
            raise UserError(what, where, "Give runs of the agent that the dataset was built from")
        self._grader = Grader(found)
        self._contexts = [context for of_task in found.by_task.values() for context in of_task]
        self.contexts = [Recorded(one.task, one.group, one.messages, one.key) for one in self._contexts]
        self.executed = sum(map(self._grader.runs, self._contexts))

    def draw(self, model: Any, renderer: Renderer, asks: Sequence[Ask], temperature: float, most: int) -> list[Drawn]:
        return draw(model, renderer, asks, temperature, most)

    def grade(self, replies: Sequence[tuple[int, Drawn]]) -> list[tuple[float, str]]:
        """Reward and turn class of replies, each to the context of that number."""
        said = [Reply(self._contexts[number], drawn.text, drawn.finish) for number, drawn in replies]
        return [(graded.reward, graded.turn_class) for graded in self._grader.grade(said)]


def recordings(folder: Path, config: TrainConfig) -> Recordings:
    """The contexts of a dataset's train tasks in the runs of a config. Raises UserError."""
    dataset = read_dataset(folder)
    if not config.contexts:
        remedy = "Play the train tasks with the model that is to be trained (eval --split train), and give that run"
        raise UserError("no recorded contexts to draw replies in", "--contexts", remedy)
    split = dataset.record.get("split")
    tasks = split["train"] if split else dataset.tasks
    return Recordings([Path(path).expanduser() for path in config.contexts], tasks, config.per_task, dataset.contract)


def draw(model: Any, renderer: Renderer, asks: Sequence[Ask], temperature: float, most: int) -> list[Drawn]:
    """A reply to each, of at most so many tokens. Replies to one prompt share its keys and values."""
    import torch

    base = model.get_base_model()
    known, eos = len(renderer.tokenizer), ends_of(base, renderer.tokenizer)
    batch = Batch(base, eos=eos, known=known, max_rows=ROWS, room=free_room())
    context = base.config.max_position_embeddings
    rows = [
        Row(ask.prompt, min(most, context - len(ask.prompt)), temperature, torch.Generator().manual_seed(ask.seed))
        for ask in asks
    ]
    waiting = deque(rows)
    with torch.no_grad():
        while waiting or batch.running:
            while waiting and batch.takes(waiting[0]):
                batch.admit(waiting.popleft())
            batch.leave()
            batch.step()
            batch.leave()
    return [_drawn(renderer, row) for row in rows]


def _drawn(renderer: Renderer, row: Row) -> Drawn:
    text = renderer.tokenizer.decode(row.reply, clean_up_tokenization_spaces=False)
    return Drawn([*row.reply, *([] if row.end is None else [row.end])], text, row.finish or "")
