"""What decides whether a call is valid: the tools with their schemas, and the protocol. A dataset has one contract, an
adapter is tied to it, and arms that are compared share it.

System prompts are no part of it: agents put dates, folders and tickets there. They belong to the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from repo_agent.messages import digest, key_of, quick_json
from repo_agent.tools.registry import Registry


@dataclass(frozen=True)
class Contract:
    """Tools (OpenAI schemas, in order) and a protocol's name."""

    tools: list[dict[str, Any]]
    protocol: str

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change with the schemas, their order, or the protocol."""
        return _hash(key_of({"tools": self.tools, "protocol": self.protocol}))

    @property
    def printed_tools(self) -> list[dict[str, Any]] | None:
        """What a chat template prints: the tools, only where calls are beside the text."""
        return self.tools if self.protocol == "native" else None


@lru_cache(256)
def _hash(encoded: bytes) -> str:
    return digest(quick_json(encoded))


def contract_of(registry: Registry, protocol: str) -> Contract:
    """The contract of a loop over these tools."""
    return Contract(registry.schemas(), protocol)
