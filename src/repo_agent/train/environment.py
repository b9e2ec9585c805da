"""What training by reward needs of the acting half: recorded contexts, and what draws and grades replies to them.

It comes from outside (see `cli.environment`): training itself runs no agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from repo_agent.chat.render import Renderer
from repo_agent.data.tokens import Rows
from repo_agent.messages import Message


class Recorded(NamedTuple):
    """A recorded context."""

    task: str
    group: str
    messages: Sequence[Message]
    key: str
    """Hash of its messages."""


class Ask(NamedTuple):
    """A reply to draw: after these tokens, with this seed."""

    prompt: list[int]
    seed: int


class Drawn(NamedTuple):
    """A reply as it was drawn."""

    ids: list[int]
    """Its tokens, the one that ended the turn among them."""
    text: str
    finish: str
    """`stop`, or `length` where the limit of tokens cut it off."""


class Environment(Protocol):
    """Recorded contexts of train tasks."""

    @property
    def contexts(self) -> Sequence[Recorded]: ...

    @property
    def executed(self) -> int:
        """In how many of them the calls of replies are run."""

    def draw(self, model: Any, renderer: Renderer, asks: Sequence[Ask], temperature: float, most: int) -> list[Drawn]:
        """A reply to each from the model's present weights, of at most so many tokens."""

    def grade(self, replies: Sequence[tuple[int, Drawn]]) -> list[tuple[float, str]]:
        """Reward and turn class of replies, each to the context of that number."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A context as token ids."""

    number: int
    """Of the context."""
    input_ids: list[int]
    replies: int
    """Tokens that the replies to it may have, all together."""

    @property
    def length(self) -> int:
        """What a pass reads at most: the prompt once, and all replies."""
        return len(self.input_ids) + self.replies

    @property
    def trained(self) -> int:
        return self.replies


def prompt_rows(environment: Environment, renderer: Renderer, most: int, reply: int, replies: int) -> Rows[Prompt]:
    """Contexts that have at most `most` tokens with a reply of `reply` tokens; each gets so many `replies`."""
    found = Rows[Prompt]()
    for number, context in enumerate(environment.contexts):
        ids = renderer.prompt_ids(context.messages)
        if len(ids) + reply > most:
            found.too_long += 1
            continue
        found.rows.append(Prompt(number, ids, replies * reply))
        found.tasks.append((context.task, context.group))
    return found
