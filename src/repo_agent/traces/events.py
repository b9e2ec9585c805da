"""The events of a trace, one JSON object a line; format version 1.

A rollout is `run_start`, then for each turn `llm_request`, `llm_action`, and `tool_result` and `tests` where something
ran, then `final` where the model stopped by itself, then `tests` (the grade) and `run_end`.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

import pydantic
import pydantic_core

VERSION: Literal[1] = 1
When = Literal["write", "final", "grade"]


HAVE_RESULTS = ("ok", "exec_error")
"""Turn classes of calls that ran."""
_HEAD = {"v", "kind", "t", "ts"}


class Event(pydantic.BaseModel):
    """What every event carries: format version, turn number (None outside a turn), Unix time in seconds."""

    model_config = pydantic.ConfigDict(extra="forbid")

    v: Literal[1] = VERSION
    t: int | None = None
    ts: float = pydantic.Field(default_factory=time.time)

    def line(self) -> str:
        """The event as one line of JSON, newline included.

        Fields of a turn that hold their default are left out: there are many turns, and one start and end.
        Escapes stand where UTF-8 cannot carry what a model wrote.
        """
        once = isinstance(self, RunStart | RunEnd)
        head = json.dumps(
            {"v": self.v, "kind": getattr(self, "kind", ""), "t": self.t, "ts": round(self.ts, 3)},
            separators=(",", ":"),
        )
        try:
            text = self.model_dump_json(exclude_defaults=not once, exclude=_HEAD)
        except (ValueError, pydantic_core.PydanticSerializationError):  # a lone surrogate
            text = json.dumps(self.model_dump(exclude_defaults=not once, exclude=_HEAD), separators=(",", ":"))
        return f"{head[:-1]}{',' if len(text) > 2 else ''}{text[1:]}\n"


class RunStart(Event):
    """Everything that learning from this rollout needs beyond the turns."""

    kind: Literal["run_start"] = "run_start"
    task: str
    group: str
    task_hash: str | None
    suite: str | None
    rollout: int
    arm: str
    model: str | None
    protocol: str
    system: str
    """The system prompt as sent; empty where none was."""
    tools: list[dict[str, Any]] | None
    """OpenAI tool schemas of the tools that were offered; None where they are not known."""
    sampling: dict[str, Any]
    seed: int | None
    isolation: str | None
    source: str = "loop"
    """Who ran it: `loop` is ours. `record` and `import:KIND` are another agent's, whose results nobody marked as good
    or bad, so they stand in the messages alone."""
    constraint: str | None = None
    """How replies were held to the protocol's schema; None where they were free."""


class Quote(pydantic.BaseModel):
    """A piece of a message that an earlier event holds: the `output` of the last one of that kind."""

    model_config = pydantic.ConfigDict(extra="forbid")

    quote: Literal["tool_result", "tests"]


class WireMessage(pydantic.BaseModel):
    """A message as sent: role, text, and calls where the protocol carries them beside the text."""

    role: str
    content: str | list[str | Quote]
    """The text, or its pieces in order."""
    tool_calls: list[dict[str, Any]] = []
    """Calls as on the wire: `{"id", "type", "function": {"name", "arguments"}}`."""
    tool_call_id: str = ""
    """Of a tool's answer: the call that it answers."""


class LlmRequest(Event):
    """A request: only the messages added since the last one. `sent` counts those sent before, the system prompt too."""

    kind: Literal["llm_request"] = "llm_request"
    sent: int
    messages: list[WireMessage]
    reply: WireMessage | Literal["dropped"] | None = None
    """The reply before this request as the agent sent it back, where that is not what the model said; `dropped` where
    it did not send it back at all."""


class LlmAction(Event):
    """A reply: the raw text, and what the verdict made of it."""

    kind: Literal["llm_action"] = "llm_action"
    text: str
    """The raw reply. Calls beside it make it one JSON text, {"content", "tool_calls"}: see `messages.spoken`."""
    finish_reason: str | None = None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    turn_class: str
    lenient_ok: bool
    """Whether a forgiving parse of the reply gives a call that the schema takes."""
    call: dict[str, Any] | Literal["said"] | None = None
    """{"name", "args"} where a call was parsed; `said` where `text` is that call, so that it is not written twice."""
    error: str = ""
    prompt_ids_hash: str | None = None
    """Hash of the prompt's token ids, where the model runs in process."""
    raw_unknown: bool = False
    """Whether a server's parser took the reply apart: then `text` is put together again."""
    seed: int | None = None
    """This turn's own, as sent."""
    counted_by: Literal["tokenizer", "characters"] | None = None
    """How the token limit counted this reply, where its server did not say how many tokens it has."""
    served: dict[str, Any] | None = None
    """What a server said: {finish_reason, model, system_fingerprint}, each None where it did not, and {tries}."""


class ToolResultEvent(Event):
    """What a tool answered, as the model saw it; `cut` counts characters left out at birth."""

    kind: Literal["tool_result"] = "tool_result"
    ok: bool
    code: str | None = None
    output: str
    cut: int = 0


class Tests(Event):
    """One run of the tests by the driver: after a write, or `grade`, the verdict at the end of the rollout."""

    kind: Literal["tests"] = "tests"
    when: When
    outcome: str
    """passed, failed, timed_out, out_of_memory, crashed, no_tests or tampered"""
    passed: int
    failed: int
    skipped: int = 0
    expected: int | None = None
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
    """How a rollout ended. `passed` is the grade; None where our own error ended it, or nobody said."""

    kind: Literal["run_end"] = "run_end"
    ended: str
    """final, tests_passed, max_steps, max_bad_turns, max_tokens, context_limit, error or stopped, and max_seconds of
    older rollouts; of a recorded rollout final (its last reply has no call), stopped or killed (the recorder was); of
    an imported one what it says"""
    passed: bool | None
    steps: int
    """Assistant turns, bad ones too."""
    prompt_tokens: int | None
    """Over all requests; None where the server did not say."""
    completion_tokens: int | None
    seconds: float | None
    error: str = ""
    verbatim: bool | None = None
    """Whether every file of the task's fix holds just the reference's text; None where no fix is known, or not
    measured."""
    cost_usd: float | None = None
    """By the prices known when it was played; None where there were none."""


AnyEvent = Annotated[
    RunStart | LlmRequest | LlmAction | ToolResultEvent | Tests | DriverNote | Final | RunEnd,
    pydantic.Field(discriminator="kind"),
]
ADAPTER: pydantic.TypeAdapter[AnyEvent] = pydantic.TypeAdapter(AnyEvent)
