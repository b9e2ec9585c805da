"""The events of a trace, one JSON object a line; format version 1.

A rollout is `run_start`, then for each turn `llm_request`, `llm_action`, and `tool_result` and `tests` where something
ran, then `final` where the model stopped by itself, then `tests` (the grade) and `run_end`.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

import pydantic

VERSION: Literal[1] = 1
When = Literal["write", "final", "grade"]


class Event(pydantic.BaseModel):
    """What every event carries: format version, turn number (None outside a turn), Unix time in seconds."""

    model_config = pydantic.ConfigDict(extra="forbid")

    v: Literal[1] = VERSION
    t: int | None = None
    ts: float = pydantic.Field(default_factory=time.time)

    def line(self) -> str:
        """The event as one line of JSON, newline included; escapes where UTF-8 cannot carry what a model wrote."""
        record = self.model_dump()
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        try:
            text.encode()
        except UnicodeEncodeError:
            text = json.dumps(record, separators=(",", ":"))
        return text + "\n"


class RunStart(Event):
    """Everything that learning from this rollout needs beyond the turns."""

    kind: Literal["run_start"] = "run_start"
    task: str
    group: str
    task_hash: str
    suite: str
    rollout: int
    arm: str
    model: str
    protocol: str
    system: str
    """The system prompt as sent."""
    tools: list[dict[str, Any]]
    """OpenAI tool schemas of the tools that were offered."""
    sampling: dict[str, Any]
    seed: int
    isolation: str


class WireMessage(pydantic.BaseModel):
    """A message as sent: role, text, and calls where the protocol carries them beside the text."""

    role: str
    content: str
    tool_calls: list[dict[str, Any]] = []


class LlmRequest(Event):
    """A request: only the messages added since the last one. `sent` counts those sent before, the system prompt too."""

    kind: Literal["llm_request"] = "llm_request"
    sent: int
    messages: list[WireMessage]


class LlmAction(Event):
    """A reply: the raw text, and what the verdict made of it."""

    kind: Literal["llm_action"] = "llm_action"
    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    turn_class: str
    lenient_ok: bool
    """Whether a forgiving parse of the reply gives a call that the schema takes."""
    call: dict[str, Any] | None = None
    """{"name", "args"} where a call was parsed."""
    error: str = ""
    prompt_ids_hash: str | None = None
    """Hash of the prompt's token ids, where the model runs in process."""


class ToolResultEvent(Event):
    """What a tool answered, as the model saw it; `cut` counts characters left out at birth."""

    kind: Literal["tool_result"] = "tool_result"
    ok: bool
    code: str | None
    output: str
    cut: int


class Tests(Event):
    """One run of the tests by the driver: after a write, or `grade`, the verdict at the end of the rollout."""

    kind: Literal["tests"] = "tests"
    when: When
    outcome: str
    """passed, failed, timed_out, out_of_memory, crashed or no_tests"""
    passed: int
    failed: int
    skipped: int
    expected: int | None
    """How many tests were collected; None where the run died before it knew."""
    output: str


class DriverNote(Event):
    """Something that the driver did or saw."""

    kind: Literal["driver_note"] = "driver_note"
    note: str


class Final(Event):
    """The model's own end."""

    kind: Literal["final"] = "final"
    value: dict[str, Any]


class RunEnd(Event):
    """How a rollout ended. `passed` is the grade; None only where our own error ended it."""

    kind: Literal["run_end"] = "run_end"
    ended: str
    """final, tests_passed, max_steps, max_bad_turns, max_seconds, max_tokens, context_limit or error"""
    passed: bool | None
    steps: int
    """Assistant turns, bad ones too."""
    prompt_tokens: int | None
    """Over all requests; None where the server did not say."""
    completion_tokens: int | None
    seconds: float
    error: str = ""


AnyEvent = Annotated[
    RunStart | LlmRequest | LlmAction | ToolResultEvent | Tests | DriverNote | Final | RunEnd,
    pydantic.Field(discriminator="kind"),
]
ADAPTER: pydantic.TypeAdapter[AnyEvent] = pydantic.TypeAdapter(AnyEvent)
