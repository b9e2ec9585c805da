"""Models behind one interface: `async complete(Request) -> Completion`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from repo_agent.messages import Message, Usage

LARGE = 2**15
"""Characters; what grows with a longer text is done in a thread, so that no other rollout waits for it."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn."""

    temperature: float = 0.7
    max_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to complete. `seed` fixes this turn's draw; `schema` constrains the reply where given.

    With `tools` (an OpenAI list) the server makes and reads the calls, and the reply's text is `messages.spoken`.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    schema: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What a server said about its reply; None where it did not say."""

    finish_reason: str | None
    model: str | None
    system_fingerprint: str | None
    tries: int
    """Requests until this answer came."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's reply. `finish_reason` is `stop`, `length` (token cap) or `context` (the prompt left no room)."""

    text: str
    finish_reason: str
    usage: Usage = field(default_factory=Usage)
    prompt_ids_hash: str | None = None
    """Hash of the prompt's token ids (`chat.render.ids_hash`), where they are told."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that made them; None where a server did."""
    raw_unknown: bool = False
    """Whether a server's parser took the reply apart, so that `text` is put together again."""
    served: Served | None = None


Ask = Callable[[Request], Awaitable[Completion]]
"""A model's `complete`, as it is metered."""


class Model(Protocol):
    """Anything that completes a conversation."""

    name: str

    async def complete(self, request: Request) -> Completion:
        """Draw one reply. Raises InfraError("model", …) when the server or our own code fails."""

    async def close(self) -> None:
        """Release what the model holds."""


@runtime_checkable
class Constrainable(Model, Protocol):
    """A model whose replies can be constrained to a schema."""

    async def constraint(self, schema: dict[str, Any], ask: Ask) -> str:
        """By what replies are constrained to `schema`, proved before a run by what `ask` brings.

        Raises UserError where nothing constrains them.
        """


@runtime_checkable
class Reader(Model, Protocol):
    """A model that tells how likely a text is."""

    async def nats(self, text: str) -> tuple[float, int]:
        """The summed negative log-likelihood of a text's tokens, the first left out, and how many they are."""
