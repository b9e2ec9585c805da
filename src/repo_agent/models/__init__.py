"""Models behind one interface: `async complete(Request) -> Completion`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from repo_agent.messages import Message, Usage


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn."""

    temperature: float = 0.7
    max_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to complete. `seed` fixes this turn's draw; `schema` constrains the reply where given."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's reply. `finish_reason` is `stop`, `length` (token cap) or `context` (the prompt left no room)."""

    text: str
    finish_reason: str
    usage: Usage = field(default_factory=Usage)
    prompt_ids_hash: str | None = None


class Model(Protocol):
    """Anything that completes a conversation."""

    name: str

    async def complete(self, request: Request) -> Completion:
        """Draw one reply. Raises InfraError("model", …) when the server or our own code fails."""

    async def close(self) -> None:
        """Release what the model holds."""
