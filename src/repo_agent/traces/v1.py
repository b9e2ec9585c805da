"""A trace of our own shape: turns with their contexts, put together again from what each request added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall, reply_message, spoken
from repo_agent.traces import events
from repo_agent.traces.pack import said, unquoted
from repo_agent.traces.trace import REMEDY, Trace, Turn


def v1_trace(path: Path, log: list[tuple[int, events.AnyEvent]], problems: list[str]) -> Trace:
    """Put a Trace together from typed events and their line numbers. Raises UserError where a line is missing."""
    start, end = log[0][1], log[-1][1]
    if not isinstance(start, events.RunStart):
        raise UserError("does not begin with run_start: a line is missing", f"{path}:{log[0][0]}", REMEDY)
    whole = isinstance(end, events.RunEnd)
    if not whole:
        problems = [*problems, f"{path}:{log[-1][0]}: ends without run_end, so it counts as not passed"]
    ended = end.ended if isinstance(end, events.RunEnd) else None
    turns = _Turns(path, start).read(log)
    return Trace(
        path=path,
        shape="v1",
        task=start.task,
        group=start.group,
        suite=start.suite,
        rollout=start.rollout,
        arm=start.arm,
        model=start.model,
        protocol=start.protocol,
        system=start.system,
        tools=start.tools,
        ended=ended,
        passed=end.passed if isinstance(end, events.RunEnd) else None,
        turns=tuple(turns),
        whole=whole,
        problems=tuple(problems),
        source=start.source,
    )


class _Turns:
    """The turns so far, and the messages that the next request goes on from."""

    def __init__(self, path: Path, start: events.RunStart) -> None:
        self._path, self._ours, self._native = path, start.source == "loop", start.protocol == "native"
        self._messages = [Message("system", start.system)] if start.system else []
        self._outputs: dict[str, str] = {}
        self._asked = False
        self._turns: list[Turn] = []

    def read(self, log: Iterable[tuple[int, events.AnyEvent]]) -> list[Turn]:
        for number, event in log:
            where = f"{self._path}:{number}"
            if isinstance(event, events.ToolResultEvent | events.Tests):
                self._outputs[event.kind] = event.output
            if isinstance(event, events.LlmRequest):
                self._request(event, where)
            elif isinstance(event, events.LlmAction):
                self._action(event, where)
            elif isinstance(event, events.ToolResultEvent | events.Final):
                if not self._turns or self._turns[-1].t != event.t:
                    raise UserError(f"the reply before this {event.kind} is missing", where, REMEDY)
                self._turns[-1] = _with(self._turns[-1], event)
        return self._turns

    def _request(self, event: events.LlmRequest, where: str) -> None:
        if event.reply == "dropped" and self._turns:
            self._messages.pop()
        if event.sent != len(self._messages) or self._asked:
            raise UserError("a line is missing before this request", where, REMEDY)
        last = self._turns[-1] if self._turns else None
        if self._ours and last and last.ok is None and last.turn_class in events.HAVE_RESULTS:
            raise UserError("the result of the call before this request is missing", where, REMEDY)
        if not self._ours and last and last.turn_class == "final":
            self._turns[-1] = last = replace(last, turn_class="no_call")  # what the agent went on after was none
        if isinstance(event.reply, events.WireMessage) and last:
            self._messages[-1] = self._message(event.reply, where)
            self._turns[-1] = replace(last, reply=self._messages[-1])
        self._messages += [self._message(message, where) for message in event.messages]
        self._asked = True

    def _action(self, event: events.LlmAction, where: str) -> None:
        if not self._asked:
            raise UserError("the request of this reply is missing", where, REMEDY)
        self._asked = False
        turn = _turn(event, self._messages, self._native, where)
        self._turns.append(turn)
        if event.turn_class != "infra_error":
            self._messages.append(turn.reply)

    def _message(self, message: events.WireMessage, where: str) -> Message:
        try:
            return _spoken(message.role, unquoted(message.content, self._outputs), message.tool_calls)
        except (KeyError, TypeError, AttributeError) as error:
            what = f"a message with a call, or a quote, that cannot be read ({error})"
            raise UserError(what, where, REMEDY) from error


def _spoken(role: str, content: str, calls: list[dict[str, Any]]) -> Message:
    """A message. Where a call's arguments are no JSON object its calls stay as text.

    Raises KeyError, TypeError or AttributeError for calls of another shape.
    """
    functions = [entry["function"] for entry in calls]
    named = [{"name": function["name"], "arguments": function["arguments"]} for function in functions]
    return replace(reply_message(spoken(content, named)), role=role) if named else Message(role, content)


def _turn(action: events.LlmAction, messages: list[Message], native: bool, where: str) -> Turn:
    call = said(action) if action.call == "said" else action.call
    return Turn(
        t=action.t or 0,
        context=tuple(messages),
        text=action.text,
        raw_unknown=action.raw_unknown,
        reply=reply_message(action.text) if native else Message("assistant", action.text),
        call=_call(call, where) if isinstance(call, dict) else None,
        finish_reason=action.finish_reason,
        turn_class=action.turn_class,
        error=action.error,
    )


def _call(call: dict[str, Any], where: str) -> ToolCall:
    name, args = call.get("name"), call.get("args")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise UserError("a call without a name or without args", where, REMEDY)
    return ToolCall(name, args)


def _with(turn: Turn, event: events.ToolResultEvent | events.Final) -> Turn:
    if isinstance(event, events.Final):
        return replace(turn, final=event.value)
    return replace(turn, ok=event.ok, code=event.code, output=event.output)
