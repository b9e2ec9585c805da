"""What a row was made for: system prompt, tool schemas, protocol. A dataset has one contract, an adapter keeps it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.messages import Message, ToolCall, digest, read_spoken
from repo_agent.protocols import protocol_named
from repo_agent.tools.registry import Registry
from repo_agent.traces.read import Trace, Turn

RERENDERED = "json"
"""The protocol that another agent's traces are put into."""
_MARKS = re.compile(r"\A(\[tool_result\]|<tool_response>\n)|\n</tool_response>\Z")
"""What other protocols put around a result."""


@dataclass(frozen=True)
class Contract:
    """The three things that decide what a model sees around its turns. `tools` are OpenAI schemas."""

    system: str
    tools: list[dict[str, Any]]
    protocol: str

    @cached_property
    def hash(self) -> str:
        return contract_hash(self.system, self.tools, self.protocol)

    def renderer(self, tokenizer: Any) -> Renderer:
        """The renderer of rows of this contract: templates print the tools only where calls stand beside the text."""
        return Renderer(tokenizer, self.tools if self.protocol == "native" else None)


def contract_hash(system: str, tools: list[dict[str, Any]], protocol: str) -> str:
    """16 hex digits that change with the system prompt, the tool schemas (their order too) or the protocol."""
    return digest({"system": system, "tools": tools, "protocol": protocol})


def our_contract(registry: Registry, protocol: str = RERENDERED) -> Contract:
    """The contract of our own loop over these tools."""
    return Contract(protocol_named(protocol).describe(registry), registry.schemas(), protocol)


def rerendered(trace: Trace, registry: Registry) -> list[tuple[tuple[Message, ...], Message]]:
    """Context and target of every turn, with its calls, finals and results put into our protocol and system prompt.

    The goal is the first user message. Notes of the other agent's driver are left out. A turn that is no call and no
    final keeps its own words.
    """
    protocol = protocol_named(RERENDERED)
    messages = [Message("system", protocol.describe(registry)), Message("user", f"GOAL:\n{_goal(trace)}")]
    following = [turn.context for turn in trace.turns[1:]]
    done = []
    for index, turn in enumerate(trace.turns):
        said = Message("assistant", _said(turn, registry))
        done.append((tuple(messages), said))
        if index < len(following):
            seen = _observed(following[index][len(turn.context) :])
            messages += [said, *protocol.observe(said, seen)]
    return done


def _goal(trace: Trace) -> str:
    context = trace.turns[0].context if trace.turns else ()
    first = next((message.content for message in context if message.role == "user"), "")
    return first.removeprefix("GOAL:").strip()


def _said(turn: Turn, registry: Registry) -> str:
    protocol = protocol_named(RERENDERED)
    if turn.call:
        spec = registry.specs.get(turn.call.name)
        order = list(spec.parameters.get("properties", {})) if spec else []
        args = dict(sorted(turn.call.args.items(), key=lambda item: _place(item[0], order)))
        return protocol.render_call(ToolCall(turn.call.name, args))
    if turn.final:
        return protocol.render_final(str(turn.final.get("summary", "")))
    return turn.reply.content if turn.text is None or turn.raw_unknown else read_spoken(turn.text)[0]


def _place(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)


def _observed(added: Sequence[Message]) -> str:
    """What the driver answered, without the other protocol's mark."""
    answers = [message.content for message in added if message.role in ("user", "tool")]
    return "\n".join(_MARKS.sub("", answer).lstrip("\n ") for answer in answers)
