"""A model with fixed replies, for tests, for replay and for the oracle."""

from __future__ import annotations

from collections.abc import Iterable

from repo_agent.errors import InfraError
from repo_agent.messages import Usage
from repo_agent.models import Completion, Request


class Scripted:
    """Says its replies in order. Raises InfraError when asked for more than it has."""

    def __init__(self, replies: Iterable[str], name: str = "scripted") -> None:
        self.name = name
        self._replies = iter(list(replies))

    async def complete(self, request: Request) -> Completion:
        reply = next(self._replies, None)
        if reply is None:
            raise InfraError("model", f"{self.name} has no reply left")
        return Completion(reply, "stop", Usage())

    async def close(self) -> None:
        pass
