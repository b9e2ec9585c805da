"""One rollout read back, whatever shape it was written in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_agent.messages import Message, ToolCall

REMEDY = "Remove the file, or restore it from a copy; a rollout without a trace is owed again"
"""What to do about a damaged trace."""


@dataclass(frozen=True)
class Turn:
    """One assistant turn and what became of it. None means not recorded."""

    t: int
    context: tuple[Message, ...]
    """Every message before this turn, the system prompt first."""
    text: str | None
    """The raw reply."""
    reply: Message
    """The assistant message as it stands in the next context."""
    call: ToolCall | None = None
    final: dict[str, Any] | None = None
    broken_arguments: bool = False
    """Whether it was a native call whose arguments are no JSON object: then `call` is None."""
    raw_unknown: bool = False
    """Whether `text` was put together again from what a server's parser made of it."""
    finish_reason: str | None = None
    turn_class: str | None = None
    """As recorded when the model ran; the older shape has none."""
    error: str = ""
    """What was wrong, as recorded."""
    ok: bool | None = None
    code: str | None = None
    output: str | None = None


@dataclass(frozen=True)
class Trace:
    """One rollout read back."""

    path: Path
    shape: str
    """`v1`, or `older`."""
    task: str
    group: str
    suite: str | None
    rollout: int | None
    arm: str | None
    model: str | None
    protocol: str
    """`json`, `hermes`, or `native`: calls beside the text; else a wire format that only the agent itself reads."""
    system: str
    tools: list[dict[str, Any]] | None
    ended: str | None
    passed: bool | None
    """None where the run has no end, or nobody said."""
    turns: tuple[Turn, ...]
    whole: bool
    problems: tuple[str, ...]
    source: str = "loop"
    """`loop`, our own; `record` or `import:KIND`, another agent's: whether a call ran well is then not known."""
