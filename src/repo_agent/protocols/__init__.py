"""How a tool call looks on the wire. One file a protocol, all with the interface `Protocol`."""

from __future__ import annotations

from collections.abc import Container
from typing import Any
from typing import Protocol as Interface

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.protocols.briefing import Briefing
from repo_agent.protocols.hermes import Hermes
from repo_agent.protocols.json_object import JsonObject
from repo_agent.protocols.native import Native
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import Parsed


class Protocol(Interface):
    """One wire format: what the system prompt says, how calls and results are written, how a reply is read."""

    name: str

    def describe(self, registry: Registry, briefing: Briefing | None = None) -> str:
        """The system prompt that teaches the format and the tools; what else it says is in the briefing."""

    def render_call(self, call: ToolCall) -> str:
        """A call as the assistant's text."""

    def render_final(self, summary: str) -> str:
        """The end of the task as the assistant's text."""

    def tools(self, registry: Registry) -> list[dict[str, Any]] | None:
        """The OpenAI `tools` that go beside the messages; None where the system prompt names the tools."""

    def reply(self, text: str) -> Message:
        """A reply as it stands in the next request."""

    def observe(self, reply: Message, text: str) -> list[Message]:
        """A tool's result, or an error, as the messages that answer `reply`."""

    def parse(self, text: str, tools: Container[str] | None = None) -> Parsed:
        """Read one reply: strictly, and leniently beside it. `tools`: the names of the agent's tools, which tell a call
        that stands in prose from other JSON; None where they are unknown: then any name will do."""

    def schema(self, registry: Registry) -> dict[str, Any] | None:
        """The JSON schema of a legal reply, for constrained decoding; keys in the order that `render_call` writes.

        None where a legal reply is more than one JSON value.
        """


PROTOCOLS: dict[str, Protocol] = {"json": JsonObject(), "hermes": Hermes(), "native": Native()}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UserError."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}", "--protocol", f"Choose from: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
