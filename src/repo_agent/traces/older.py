"""The older trace shape: `{ts, kind, payload, run_id, meta}`, every `llm_request` with all messages.

Assistant turns are OpenAI `tool_calls` (native), or JSON text (json). The raw reply is known only where its parse
failed; elsewhere a turn holds the parsed action, under `action`, or `obj` or `raw` in the oldest files. Contexts are
taken as they were sent, with the driver's own notes in them; reflection events are not turns. A native call whose
arguments are not a JSON object is the model's fault, to be counted: its message keeps them as text, without the call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.traces.older_requests import CONVERT, Request, Requests, arguments_of, typed_field
from repo_agent.traces.trace import REMEDY, Trace, Turn

KINDS = frozenset(
    "run_start llm_request llm_action llm_parse_error tool_result tests driver_note reflection_request reflection "
    "final run_end".split()
)
Lines = Sequence[tuple[int, bytes]]
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def older_trace(path: Path, lines: Lines, problems: list[str]) -> Trace:
    """Put a Trace together from the lines of an older file. Raises UserError for a line that it does not know."""
    requests = Requests()
    events = []
    for number, line in lines:
        where = f"{path}:{number}"
        record = requests.envelope(line, where)
        kind, payload = _known(record, where)
        if kind == "llm_request":
            requests.add(payload, where)
        events.append((where, kind, record, payload, requests.last))
    turns = _turns(events, requests.native)
    return _trace(path, events, turns, requests, problems)


@dataclass
class _Reply:
    """A reply as recorded, the request before it, and what its call gave."""

    where: str
    payload: dict[str, Any]
    request: Request
    ok: bool | None = None
    output: str | None = None


def _turns(events: list[Any], native: bool) -> list[Turn]:
    replies: list[_Reply] = []
    request: Request | None = None
    for where, kind, _, payload, request in events:
        if kind in ("llm_action", "llm_parse_error"):
            if request is None:
                raise UserError("the request of this reply is missing", where, REMEDY)
            replies.append(_Reply(where, payload, request))
        elif kind == "tool_result" and replies:
            result = typed_field(payload, "obs", dict, where) or {}
            replies[-1].ok = typed_field(result, "ok", bool, where)
            replies[-1].output = typed_field(result, "output", str, where)
    following = [*(reply.request for reply in replies[1:]), request] if request and replies else []
    return [_turn(reply, t, after, native) for t, (reply, after) in enumerate(zip(replies, following, strict=True))]


def _trace(path: Path, events: list[Any], turns: list[Turn], requests: Requests, problems: list[str]) -> Trace:
    where, _, first, _, _ = events[0]
    last_where, last_kind, _, last, _ = events[-1]
    meta = typed_field(first, "meta", dict, where) or {}
    ended, passed = _end(last_kind, last, last_where)
    if ended is None:
        problems = [*problems, f"{last_where}: ends without run_end, so it counts as not passed"]
    task = str(meta.get("task_id") or first.get("run_id") or path.stem)
    opening = requests.last.conversation.messages[:1] if requests.last else []
    return Trace(
        path=path,
        shape="older",
        task=task,
        group=task,
        suite=None,
        rollout=None,
        arm=None,
        model=typed_field(meta, "model", str, where),
        protocol="native" if requests.native else "json",
        system=opening[0].content if opening else "",
        tools=None,
        ended=ended,
        passed=passed,
        turns=tuple(turns),
        whole=ended is not None,
        problems=tuple(problems),
    )


def _known(record: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    kind, payload = record.get("kind"), record.get("payload")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(payload, dict):
        remedy = f"Known kinds: {', '.join(sorted(KINDS))}. {CONVERT}"
        raise UserError(f"an event of unknown kind {kind!r}", where, remedy)
    return kind, payload


def _turn(reply: _Reply, number: int, after: Request, native: bool) -> Turn:
    """A turn. Its message is the one that the next request shows; where it shows none, its own words."""
    raw, place = reply.payload.get("raw"), reply.request.length
    action = _action(reply.payload, reply.where)
    call, broken, words = _call(action, native)
    message = after.shown(place)
    if message is not None and message.role != "assistant":
        message = None
    if message is not None and place in after.conversation.broken:
        call, broken, words = None, True, message.content if words is None else words
    text = raw if isinstance(raw, str) else words
    if message is None and native and call:
        message = Message("assistant", "", (call,))
    return Turn(
        t=number,
        messages=reply.request.conversation.messages,
        at=place,
        text=text,
        reply=message or Message("assistant", text if text is not None else _ENCODER.encode(action)),
        call=call,
        final=action if action.get("type") == "final" else None,
        broken_arguments=broken,
        ok=reply.ok,
        output=reply.output,
    )


def _action(payload: dict[str, Any], where: str) -> dict[str, Any]:
    """The parsed action of a reply, under the key that its file has for it; {} where there is none."""
    for key in ("action", "obj") if isinstance(payload.get("raw"), str) else ("action", "obj", "raw"):
        action: dict[str, Any] | None = typed_field(payload, key, dict, where)
        if action is not None:
            return action
    return {}


def _call(action: dict[str, Any], native: bool) -> tuple[ToolCall | None, bool, str | None]:
    """The call of an action; whether it is a native one whose arguments are no JSON object; and those, if a text."""
    if action.get("type") == "final":
        return None, False, None
    args = arguments_of(action.get("args")) if native else action.get("args")
    if native and args is None and "args" in action:
        return None, True, action["args"] if isinstance(action["args"], str) else None
    name = action.get("name")
    return ToolCall(name, args) if isinstance(name, str) and isinstance(args, dict) else None, False, None


def _end(kind: str, payload: dict[str, Any], where: str) -> tuple[str | None, bool | None]:
    """How it ended and whether it passed; a run that died of a reply it could not parse has ended, too."""
    if kind == "llm_parse_error":
        return "parse_error", False
    if kind != "run_end":
        return None, None
    state = typed_field(payload, "state", dict, where) or {}
    test = typed_field(state, "last_test", dict, where) or {}
    return "run_end", test.get("ok") is True
