"""A trace of our own: its conversation put together from what each request added, with turns as places in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall, reply_message, spoken
from repo_agent.traces import events
from repo_agent.traces.trace import REMEDY, Trace, Turn


def trace_of(path: Path, shape: str, log: list[tuple[int, events.AnyEvent]], problems: list[str]) -> Trace:
    """Put a Trace together from typed events and their line numbers. Raises UserError where a line is missing."""
    start, end = log[0][1], log[-1][1]
    if not isinstance(start, events.RunStart):
        raise UserError("does not begin with run_start: a line is missing", f"{path}:{log[0][0]}", REMEDY)
    whole = isinstance(end, events.RunEnd)
    if not whole:
        problems = [*problems, f"{path}:{log[-1][0]}: ends without run_end, so it counts as not passed"]
    return Trace(
        path=path,
        shape=shape,
        task=start.task,
        group=start.group,
        suite=start.suite,
        rollout=start.rollout,
        arm=start.arm,
        model=start.model,
        protocol=start.protocol,
        system=start.system,
        tools=start.tools,
        ended=end.ended if isinstance(end, events.RunEnd) else None,
        passed=end.passed if isinstance(end, events.RunEnd) else None,
        turns=tuple(_Turns(path, start).read(log)),
        whole=whole,
        problems=tuple(problems),
        source=start.source,
        parallel=start.source != "loop" and start.sampling.get("parallel_tool_calls") is not False,
    )


class _Turns:
    """The turns so far, and the messages that the next request continues."""

    def __init__(self, path: Path, start: events.RunStart) -> None:
        self._path, self._ours = str(path), start.source == "loop"
        self._messages = [Message("system", start.system)] if start.system else []
        self._asked, self._redacted = False, start.redacted
        self._checked = not self._ours and start.protocol == "native"
        self._broken_at: int | None = None
        self._answers = False
        """Whether a result may come next."""
        self._turns: list[Turn] = []

    def read(self, log: Iterable[tuple[int, events.AnyEvent]]) -> list[Turn]:
        for number, event in log:
            where = f"{self._path}:{number}"
            if isinstance(event, events.LlmRequest):
                self._request(event, where)
            elif isinstance(event, events.LlmAction):
                self._action(event, where)
            elif isinstance(event, (events.ToolResultEvent, events.Final)):
                if not self._turns or self._turns[-1].t != event.t:
                    kind = event.__struct_config__.tag
                    raise UserError(f"the reply before this {kind} is missing", where, REMEDY)
                self._turns[-1] = _with(self._turns[-1], event)
        return self._turns

    def _request(self, event: events.LlmRequest, where: str) -> None:
        if event.reply == "dropped" and self._turns:
            self._pop()
        if event.sent != len(self._messages) or self._asked:
            raise UserError("a line is missing before this request", where, REMEDY)
        last = self._turns[-1] if self._turns else None
        if self._ours and last and last.ok is None and last.turn_class in events.HAVE_RESULTS:
            raise UserError("the result of the call before this request is missing", where, REMEDY)
        if not self._ours and last and last.turn_class in ("final", "early_final"):
            said = [message.role for message in event.messages if message.role != "system"]
            answered = event.reply != "dropped" and said[:1] == ["user"]
            self._turns[-1] = replace(last, turn_class="final" if answered else "no_call")
        if isinstance(event.reply, events.WireMessage) and last:
            self._pop()
            self._add(_message(event.reply, where), bool(event.reply.tool_calls))
        for message in event.messages:
            self._add(_message(message, where), bool(message.tool_calls))
        self._asked, self._redacted = True, self._redacted or event.redacted

    def _action(self, event: events.LlmAction, where: str) -> None:
        if not self._asked:
            raise UserError("the request of this reply is missing", where, REMEDY)
        self._asked = False
        text = spoken(event.text, event.tool_calls) if event.tool_calls else event.text
        ids = (event.prompt_ids_hash, event.tokenizer or "") if event.prompt_ids_hash else None
        turn = Turn(
            t=event.t or 0,
            messages=self._messages,
            at=len(self._messages),
            text=text,
            raw_unknown=event.raw_unknown,
            reply=reply_message(text) if event.tool_calls else Message("assistant", event.text),
            call=_call(event.calls[0], where) if event.calls else None,
            more=tuple(_call(call, where) for call in event.calls[1:]),
            broken_context=self._broken_at is not None,
            finish_reason=event.finish_reason,
            turn_class=event.turn_class,
            error=event.error,
            prompt_ids=ids,
            redacted=self._redacted or event.redacted,
        )
        self._turns.append(turn)
        self._redacted = False
        if event.turn_class != "infra_error":
            self._add(turn.reply, bool(event.tool_calls))

    def _add(self, message: Message, calls: bool) -> None:
        """Append a message; `calls`: it was sent with some."""
        whole = self._answers if message.role == "tool" else bool(message.tool_calls) or not calls
        if message.role != "tool":
            self._answers = bool(message.tool_calls)
        if self._checked and not whole and self._broken_at is None:
            self._broken_at = len(self._messages)
        self._messages.append(message)

    def _pop(self) -> None:
        self._messages.pop()
        self._answers = False
        if self._broken_at == len(self._messages):
            self._broken_at = None


def _message(message: events.WireMessage, where: str) -> Message:
    """A message of a request. Where a call's arguments are not a JSON object its calls stay as text."""
    if not message.tool_calls:
        return Message(message.role, message.content, (), message.tool_call_id)
    try:
        named = [
            {"name": entry["function"]["name"], "arguments": entry["function"]["arguments"], "id": entry.get("id")}
            for entry in message.tool_calls
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"a message with a call that cannot be read ({error})", where, REMEDY) from error
    return replace(reply_message(spoken(message.content, named)), role=message.role)


def _call(call: dict[str, Any], where: str) -> ToolCall:
    name, args = call.get("name"), call.get("args")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise UserError("a call without a name or without args", where, REMEDY)
    return ToolCall(name, args)


def _with(turn: Turn, event: events.ToolResultEvent | events.Final) -> Turn:
    if isinstance(event, events.Final):
        return replace(turn, final=event.value)
    unseen = None if event.unseen is None else tuple(event.unseen)
    return replace(turn, ok=event.ok, code=event.code, output=event.output, unseen=unseen)
