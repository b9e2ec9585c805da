"""AgentSpec: the agent that a run plays, in one place. Its prompt is derived, so it never disagrees with the settings.

Two hashes: the contract's (tools and protocol: what decides whether a call is valid) is hard, an adapter is tied to it;
that of the system prompt and the limits is soft, and a difference is printed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property

from repo_agent.messages import digest
from repo_agent.protocols import Protocol
from repo_agent.protocols.briefing import INTRO, Briefing
from repo_agent.protocols.contract import Contract, contract_of
from repo_agent.tools.registry import Registry

_TESTS = {
    "on_write": ("Tests run by themselves after a write.",),
    "on_final": ("Tests run when you finish; while they fail, you go on.",),
    "never": (),
}
"""What the prompt says of each policy of showing test results."""


@dataclass(frozen=True)
class Limits:
    """Where a rollout ends, whatever the model does. Turns and tokens alone: no clock makes a slow server, or a busy
    machine, the model's failure. A request that hangs is ours (see `models.retry`)."""

    max_steps: int = 16
    max_bad_turns: int = 4
    """Bad turns in a row."""
    max_completion_tokens: int = 65_536
    """As its server counts a reply; where it does not, see `models.tokens`."""
    observation_chars: int = 4_000
    """Longer outputs are cut, once, when they are produced."""
    read_chars: int = 16_000
    """The same for tools whose caller says how much to show, such as read_file: more than this is never shown."""
    tests: str = "on_write"
    """When the model is shown test results: on_write; on_final (a final on failing tests is answered with them, and
    the rollout continues); never."""
    stop_on_pass: bool = False


@dataclass(frozen=True)
class AgentSpec:
    """Tools, protocol, limits, and the first sentence of the system prompt."""

    registry: Registry
    protocol: Protocol
    limits: Limits = field(default_factory=Limits)
    intro: str = INTRO

    @cached_property
    def system(self) -> str:
        """The system prompt."""
        return self.protocol.describe(self.registry, Briefing(self.intro, _TESTS[self.limits.tests]))

    @cached_property
    def contract(self) -> Contract:
        """What decides whether a call is valid."""
        return contract_of(self.registry, self.protocol.name)

    @cached_property
    def soft_hash(self) -> str:
        """16 hex digits that change with the system prompt or the limits."""
        return digest({"system": self.system, "limits": asdict(self.limits)})
