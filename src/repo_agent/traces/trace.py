"""One rollout read back, whatever shape it was written in: its conversation once, and turns as places in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from repo_agent.messages import Message, ToolCall

REMEDY = "Remove the file, or restore it from a copy; a rollout without a trace will be rerun"
"""What to do about a damaged trace."""


class Turn(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One assistant turn and what became of it. None means not recorded."""

    t: int
    messages: Sequence[Message]
    """Its whole conversation, which turns share; only `messages[:at]` was said before this turn."""
    at: int
    text: str | None
    """The raw reply; calls beside the text make it one text, see `messages.spoken`."""
    reply: Message
    """The assistant's message as the model said it. `messages[at]` is what its agent sent back, if it did."""
    call: ToolCall | None = None
    more: tuple[ToolCall, ...] = ()
    """Of parallel calls: those after the first."""
    broken_context: bool = False
    """Whether what was said before it holds a call whose arguments are not a JSON object, or a result without a call:
    no server takes that as it is."""
    final: dict[str, Any] | None = None
    broken_arguments: bool = False
    """Whether it was a native call whose arguments are not a JSON object: then `call` is None."""
    raw_unknown: bool = False
    """Whether a server's parser took the reply apart, so that `text` is put together again."""
    finish_reason: str | None = None
    turn_class: str | None = None
    """As recorded when the model ran; the older shape has none."""
    error: str = ""
    """What was wrong, as recorded."""
    ok: bool | None = None
    code: str | None = None
    output: str | None = None
    unseen: tuple[str, ...] | None = None
    """What a write kept or took away without having been shown it; see `events.ToolResultEvent`."""
    prompt_ids: tuple[str, str] | None = None
    """Hash of the prompt's token ids and the tokenizer's fingerprint, where both were recorded."""
    redacted: bool = False
    """Whether a credential was replaced in this turn, or in what was said since the one before."""

    @property
    def context(self) -> tuple[Message, ...]:
        """Every message before this turn, the system prompt first."""
        return tuple(self.messages[: self.at])

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return ((self.call,) if self.call else ()) + self.more

    def answered(self, following: Turn) -> bool:
        """Whether a user's message answers it, before the turn that follows."""
        if following.messages is not self.messages or self.messages[self.at].role != "assistant":
            return False
        after = (message.role for message in self.messages[self.at + 1 : following.at])
        return next((role for role in after if role != "system"), "") == "user"

    @property
    def sent_back(self) -> bool:
        """Whether the next request holds the very message that the model said."""
        return self.at < len(self.messages) and self.messages[self.at] == self.reply


@dataclass(frozen=True)
class Trace:
    """One rollout read back."""

    path: Path
    shape: str
    """`v2`, `v1`, or `older`."""
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
    """None where the run has no end, or it is unknown."""
    turns: tuple[Turn, ...]
    """In order. Those whose contexts continue each other share their `messages`."""
    whole: bool
    problems: tuple[str, ...]
    run: Path | None = None
    """The run directory that it belongs to."""
    source: str = "loop"
    """`loop`, our own; `record` or `import:KIND`, another agent's: whether a call ran well is then unknown."""
    parallel: bool = False
    """Whether a reply may hold several calls: another agent's, unless it asked for one."""
