"""What a system prompt says besides the format and the tools."""

from __future__ import annotations

from dataclasses import dataclass

from repo_agent.tools.registry import Registry

INTRO = "You fix code in a repository."


@dataclass(frozen=True)
class Briefing:
    """The first sentence, and what follows from the settings of the loop."""

    intro: str = INTRO
    notes: tuple[str, ...] = ("Tests run by themselves after a write.",)

    def lines(self, registry: Registry) -> str:
        """The notes, behind what is required of a call."""
        optional = any(spec.optional for spec in registry.specs.values())
        required = "Arguments marked ? may be left out, all others are required." if optional else _REQUIRED
        return " ".join((required, *self.notes))


_REQUIRED = "Every argument is required."
