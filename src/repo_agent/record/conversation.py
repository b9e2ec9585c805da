"""One conversation under way: what it has said so far, and its trace, which grows by one exchange at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from repo_agent.messages import tilde, total
from repo_agent.record.verdict import Judge, Judged
from repo_agent.record.wire import ChatRequest, Reply, names_and_arguments, text_of
from repo_agent.redact import redacted
from repo_agent.traces import events
from repo_agent.traces.events import WireMessage
from repo_agent.traces.recover import MARKS
from repo_agent.traces.writer import TraceWriter

CAUSE_CHARS = 300


@dataclass
class Conversation:
    """A rollout that another agent plays. An exchange is on disk before its agent sees the reply's end."""

    id: str
    """`task/rollout`."""
    task: str
    rollout: int
    request: ChatRequest
    """The request that opened it, then the last one."""
    writer: TraceWriter
    judge: Judge
    protocol: str
    source: str
    secrets: frozenset[str] = frozenset()
    name: str | None = None
    reply: Reply | None = None
    """The reply to `request`; None where it has none yet, or the server failed."""
    busy: bool = False
    passed: bool | None = None
    sent: int = 0
    """Messages that the trace holds: those of the requests, and the replies."""
    turn: int = 0
    steps: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    clock: Callable[[], float] | None = time.monotonic
    """None where the time that things took is unknown."""
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def open(self) -> None:
        """Write `run_start`, which holds the system prompt: a first message of that role."""
        first = self.request.messages[:1]
        system = text_of(first[0]) if first and first[0].role == "system" else ""
        self.sent = 1 if system else 0
        self._write(
            events.RunStart(
                task=self.task,
                group=self.task,
                task_hash=None,
                suite=None,
                rollout=self.rollout,
                arm=self.source,
                model=self.request.model,
                protocol=self.protocol,
                system=system,
                tools=self.judge.schemas,
                sampling=self.request.sampling,
                seed=self.request.seed,
                isolation=None,
                source=self.source,
            )
        )

    def continues(self, request: ChatRequest) -> int:
        """How well a request continues this: 3 with the reply, or with a failed request again; 2 with the reply
        repaired; 1 without the reply, as agents do that throw a bad one away and complain; 0 not at all."""
        place = len(self.request.messages)
        if len(request.messages) < place or request.hashes[place] != self.request.hashes[place]:
            return 0
        if self.reply is None:
            return 3
        after = request.messages[place:]
        if after and after[0].role == "assistant":
            return 3 if is_of(after[0], self.reply) else 2 if repairs(after[0], self.reply) else 0
        return 1 if after and self.judge.last != "ok" else 0

    def exchange(self, request: ChatRequest, reply: Reply, seconds: float | None, read: Judged | None = None) -> str:
        """Append a request and its reply; returns the reply's turn class. `read` is what its own agent made of it."""
        self._went_on(request)
        verdict = self.judge.verdict(reply.spoken, reply.finish_reason, read)
        action = events.LlmAction(
            t=self.turn,
            text=reply.text,
            reasoning=reply.reasoning,
            tool_calls=reply.calls,
            raw_unknown=bool(reply.calls),
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=seconds,
            turn_class=verdict.turn_class,
            lenient_ok=verdict.lenient_ok,
            calls=verdict.calls,
            error=verdict.error,
        )
        self._append(request, action)
        self.sent += 1
        self.steps += 1
        self.reply = reply
        self.prompt_tokens = total((self.prompt_tokens, reply.prompt_tokens))
        self.completion_tokens = total((self.completion_tokens, reply.completion_tokens))
        return verdict.turn_class

    def fail(self, request: ChatRequest, cause: str, seconds: float | None) -> None:
        """Append a request that no reply came to, by no fault of the model. The same request again is a retry.

        The cause is cut, after keys were taken out: half a key would not be known for one.
        """
        self._went_on(request)
        action = events.LlmAction(
            t=self.turn,
            text="",
            finish_reason=None,
            prompt_tokens=None,
            completion_tokens=None,
            seconds=seconds,
            turn_class="infra_error",
            lenient_ok=False,
            error=tilde(redacted(cause, self.secrets)[:CAUSE_CHARS]),
        )
        self._append(request, action)
        self.reply = None

    def mark(self, passed: bool | None) -> None:
        """Set the verdict that the trace will end with."""
        if passed != self.passed and passed is not None:
            self._write(events.DriverNote(note=next(note for note, mark in MARKS.items() if mark == passed)))
        self.passed = passed

    def end(self, ended: str) -> None:
        """Write `run_end`, and the trace is whole. One without a single reply goes to errors/."""
        final = self.reply is not None and self.judge.last == "final"
        end = events.RunEnd(
            ended="final" if final else ended if self.steps else "error",
            passed=self.passed,
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            seconds=round(self.clock() - self.began, 3) if self.clock else None,
        )
        self._write(end)
        if self.steps:
            self.writer.commit()
        else:
            self.writer.fail()

    def _append(self, request: ChatRequest, action: events.LlmAction) -> None:
        fresh = list(request.messages[self._known() :])
        edited: WireMessage | Literal["dropped"] | None = None
        if self.reply is not None and fresh[0].role == "assistant":
            back, *fresh = fresh
            edited = None if _same(back, self.reply) and _ids(back.tool_calls) == _ids(self.reply.calls) else back
        elif self.reply is not None:
            edited = "dropped"
            self.sent -= 1
        self._write(events.LlmRequest(t=self.turn, sent=self.sent, messages=fresh, reply=edited), action)
        self.sent += len(fresh)
        self.turn += 1
        self.request = request
        self.last = time.monotonic()

    def _went_on(self, request: ChatRequest) -> None:
        """A request after a reply: its agent went on, or a user's message answers it."""
        added = request.messages[self._known() :]
        self.judge.sees(added)
        if self.reply is not None:
            back, *after = added
            said = [message.role for message in after if message.role != "system"]
            self.judge.went_on(back.role == "assistant" and said[:1] == ["user"])

    def _known(self) -> int:
        """How many messages of a request the trace holds, the last reply not counted."""
        if self.turn:
            return len(self.request.messages)
        return self.sent

    def _write(self, *said: events.Event) -> None:
        self.writer.secrets |= self.secrets
        self.writer.emit(*said)


def is_of(back: WireMessage, reply: Reply) -> bool:
    """Whether a message is a reply sent back: the same calls or the first of them, and of its text all or a part.

    So agents that cut white space, reasoning, or all but one call off a reply keep their conversation.
    """
    calls, said = names_and_arguments(back.tool_calls), names_and_arguments(reply.calls)
    text = text_of(back).strip()
    part = said[: len(calls)] == calls and bool(calls) == bool(said) and text in reply.text and bool(text or calls)
    return part or _same(back, reply)


def repairs(back: WireMessage, reply: Reply) -> bool:
    """Whether a message is a reply sent back with other arguments: the same calls by id, or by name where the reply's
    arguments are not a JSON object."""
    sent = [(call.get("id"), call["function"]["name"]) for call in back.tool_calls]
    said = [(call.get("id"), call.get("name")) for call in reply.calls]
    if not sent or len(sent) != len(said) or text_of(back).strip() not in reply.text:
        return False
    by_id = sent == said and all(own for own, _ in sent)
    names = [name for _, name in sent] == [name for _, name in said]
    broken = any(not isinstance(value, dict) for _, value in names_and_arguments(reply.calls))
    return by_id or (names and broken)


def _ids(calls: list[dict[str, Any]]) -> list[Any]:
    """By which results name their calls; an agent may give calls ids of its own."""
    return [call.get("id") for call in calls]


def _same(back: WireMessage, reply: Reply) -> bool:
    calls, said = names_and_arguments(back.tool_calls), names_and_arguments(reply.calls)
    return calls == said and text_of(back) == reply.text
