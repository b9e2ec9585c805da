"""The events of a trace, one JSON object a line; format version 2.

A rollout is `run_start`, then for each turn `llm_request`, `llm_action`, and `tool_result` and `tests` where something
ran, then `final` where the model stopped by itself, then `tests` (the grade) and `run_end`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import Any, Literal

import msgspec

from repo_agent.redact import redacted

VERSION: Literal[2] = 2
When = Literal["write", "final", "grade"]
HAVE_RESULTS = ("ok", "exec_error")
"""Turn classes of calls that ran."""
_OURS = frozenset({"kind", "turn_class", "ended", "source", "arm", "protocol"})
"""Fields that hold words of ours."""


def _now() -> float:
    return round(time.time(), 3)


class Event(msgspec.Struct, kw_only=True, tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """What every event carries: the turn's number (None outside a turn), and Unix time in seconds."""

    t: int | None = None
    ts: float = msgspec.field(default_factory=_now)

    def line(self) -> bytes:
        """The event as one line of JSON, newline included.

        A field of a turn that holds its default is left out: there are many turns, and one start and end. Escapes
        stand where UTF-8 cannot carry what a model wrote.
        """
        try:
            return msgspec.json.encode(self) + b"\n"
        except UnicodeEncodeError:  # a lone surrogate
            return json.dumps(msgspec.to_builtins(self), separators=(",", ":")).encode() + b"\n"


class RunStart(Event, kw_only=True, tag="run_start", omit_defaults=False):
    """Everything that learning from this rollout needs beyond the turns."""

    v: Literal[2] = VERSION
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
    """OpenAI tool schemas of the tools that were offered; None where they are unknown."""
    sampling: dict[str, Any]
    seed: int | None
    isolation: str | None
    source: str = "loop"
    """Who ran it: `loop` is ours, `replay` is one turn of ours in a recorded context. `record` and `import:KIND` are
    another agent's, whose results nobody marked as good or bad, so they stand in the messages alone."""
    constraint: str | None = None
    """How replies were constrained to the protocol's schema; None where they were free."""
    redacted: bool = False


class WireMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message as sent: role, text, and calls where the protocol carries them beside the text."""

    role: str
    content: str
    tool_calls: list[dict[str, Any]] = []
    """Calls as on the wire: `{"id", "type", "function": {"name", "arguments"}}`."""
    tool_call_id: str = ""
    """Of a tool's answer: the call that it answers."""


class LlmRequest(Event, kw_only=True, tag="llm_request"):
    """A request: only the messages added since the last one. `sent` counts those sent before, the system prompt too."""

    sent: int
    messages: list[WireMessage]
    reply: WireMessage | Literal["dropped"] | None = None
    """The reply before this request as the agent sent it back, where that is not what the model said; `dropped` where
    it did not send it back at all."""
    redacted: bool = False
    """Whether a credential was replaced in its text, so that nothing from here on is trained on."""


class LlmAction(Event, kw_only=True, tag="llm_action"):
    """A reply: the raw text, and what the verdict made of it."""

    text: str
    """The raw reply, without the calls beside it."""
    tool_calls: list[dict[str, Any]] = []
    """Calls that the server's parser put beside the text: {"name", "arguments"} and perhaps "id"; arguments as sent."""
    reasoning: str = ""
    """Thoughts that the server sent apart; no part of the conversation."""
    finish_reason: str | None = None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    turn_class: str
    lenient_ok: bool
    """Whether a forgiving parse of the reply gives a call that the schema takes."""
    calls: list[dict[str, Any]] = []
    """The calls that were parsed: {"name", "args"} each."""
    error: str = ""
    prompt_ids_hash: str | None = None
    """Hash of the prompt's token ids (`chat.render.ids_hash`), where the server tells them."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that made them."""
    raw_unknown: bool = False
    """Whether a server's parser took the reply apart, so that what the model wrote is unknown."""
    seed: int | None = None
    """This turn's own, as sent."""
    counted_by: Literal["tokenizer", "characters"] | None = None
    """How the token limit counted this reply, where its server did not say how many tokens it has."""
    served: dict[str, Any] | None = None
    """What a server said: {finish_reason, model, system_fingerprint}, each None where it did not, and {tries}."""
    redacted: bool = False


class ToolResultEvent(Event, kw_only=True, tag="tool_result"):
    """What a tool answered, as the model saw it; `cut` counts characters left out when it was produced."""

    ok: bool
    code: str | None = None
    output: str
    cut: int = 0
    unseen: list[str] | None = None
    """Of a write: what it kept or took away without having been shown it, lines of the file that was there, or its
    path; at most a few. None where that is unknown."""


class Tests(Event, kw_only=True, tag="tests"):
    """One run of the tests by the driver: after a write, or `grade`, the verdict at the end of the rollout."""

    when: When
    outcome: str
    """passed, failed, timed_out, out_of_memory, crashed, no_tests or tampered"""
    passed: int
    failed: int
    skipped: int = 0
    expected: int | None = None
    """How many tests were collected; None where the run died before it knew."""
    output: str


class DriverNote(Event, kw_only=True, tag="driver_note"):
    """Something that the driver did or saw."""

    note: str


class Final(Event, kw_only=True, tag="final"):
    """The model's own end."""

    value: dict[str, Any]


class RunEnd(Event, kw_only=True, tag="run_end", omit_defaults=False):
    """How a rollout ended. `passed` is the grade; None where our own error ended it, or it is unknown."""

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
    """Whether every file of the task's fix matches the reference; None where no fix is known, or not measured."""
    cost_usd: float | None = None
    """By the prices known when it was played; None where there were none."""


AnyEvent = RunStart | LlmRequest | LlmAction | ToolResultEvent | Tests | DriverNote | Final | RunEnd
KINDS: dict[str, type[Event]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (RunStart, LlmRequest, LlmAction, ToolResultEvent, Tests, DriverNote, Final, RunEnd)
}
_DECODER = msgspec.json.Decoder(AnyEvent)


def read_line(line: bytes) -> AnyEvent:
    """The event of a line. Raises msgspec.ValidationError for another shape, ValueError for what is not JSON."""
    try:
        event: AnyEvent = _DECODER.decode(line)
        return event
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return from_record(json.loads(line))  # a lone surrogate as an escape


def from_record(record: Any) -> AnyEvent:
    """The event of a line's JSON object. Raises msgspec.ValidationError."""
    event: AnyEvent = msgspec.convert(record, AnyEvent)
    return event


def without(event: Event, secrets: Collection[str]) -> Event:
    """The event with each of the secrets replaced by a mark; it says so where it holds words that are trained on."""
    record = msgspec.to_builtins(event)
    clean = {key: value if key in _OURS else redacted(value, secrets, shaped=False) for key, value in record.items()}
    if clean != record and "redacted" in event.__struct_fields__:
        clean["redacted"] = True
    return from_record(clean)
