"""The older trace shape: `{ts, kind, payload, run_id, meta}`, every `llm_request` with all messages.

Assistant turns are OpenAI `tool_calls` (native), or JSON text (json). The raw reply is known only where its parse
failed; elsewhere a turn holds the parsed action, under `action`, or `obj` or `raw` in the oldest files. Contexts are
taken as they were sent, with the driver's own notes in them; reflection events are not turns. A native call whose
arguments are no JSON object is the model's fault, to be counted: its message keeps them as text, without the call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.traces.trace import REMEDY, Trace, Turn

KINDS = frozenset(
    [
        "run_start",
        "llm_request",
        "llm_action",
        "llm_parse_error",
        "tool_result",
        "tests",
        "driver_note",
        "reflection_request",
        "reflection",
        "final",
        "run_end",
    ]
)
Records = Sequence[tuple[int, dict[str, Any]]]
_CONVERT = "Remove the file, or convert it"
_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class _Request:
    """The messages of one request; `broken` are the places of those with a call whose arguments are no object."""

    messages: tuple[Message, ...]
    broken: frozenset[int]
    native: bool


def older_trace(path: Path, records: Records, problems: list[str]) -> Trace:
    """Put a Trace together from the lines of an older file. Raises UserError for a line that it does not know."""
    known = [_known(record, f"{path}:{number}") for number, record in records]
    requests = {where: _request(payload, where) for where, kind, payload in known if kind == "llm_request"}
    native = any(request.native for request in requests.values())
    turns: list[Turn] = []
    asked: list[_Request] = []
    request: _Request | None = None
    for where, kind, payload in known:
        if kind == "llm_request":
            request = requests[where]
        elif kind in ("llm_action", "llm_parse_error"):
            if request is None:
                raise UserError("the request of this reply is missing", where, REMEDY)
            asked.append(request)
            turns.append(_turn(payload, request.messages, len(turns), native, where))
        elif kind == "tool_result" and turns:
            result = _field(payload, "obs", dict, where) or {}
            ok, output = _field(result, "ok", bool, where), _field(result, "output", str, where)
            turns[-1] = replace(turns[-1], ok=ok, output=output)
    following = [*asked[1:], request] if request and turns else []
    turns = [_with_reply(turn, after, native) for turn, after in zip(turns, following, strict=True)]
    return _trace(path, records, turns, request.messages if request else (), native, problems)


def _trace(
    path: Path, records: Records, turns: list[Turn], context: tuple[Message, ...], native: bool, problems: list[str]
) -> Trace:
    first_line, first = records[0]
    last_line, last = records[-1]
    where = f"{path}:{first_line}"
    meta = _field(first, "meta", dict, where) or {}
    ended, passed = _end(last, f"{path}:{last_line}")
    if ended is None:
        problems = [*problems, f"{path}:{last_line}: ends without run_end, so it counts as not passed"]
    task = str(meta.get("task_id") or first.get("run_id") or path.stem)
    return Trace(
        path=path,
        shape="older",
        task=task,
        group=task,
        suite=None,
        rollout=None,
        arm=None,
        model=_field(meta, "model", str, where),
        protocol="native" if native else "json",
        system=context[0].content if context else "",
        tools=None,
        ended=ended,
        passed=passed,
        turns=tuple(turns),
        whole=ended is not None,
        problems=tuple(problems),
    )


def _known(record: dict[str, Any], where: str) -> tuple[str, str, dict[str, Any]]:
    kind, payload = record.get("kind"), record.get("payload")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(payload, dict):
        remedy = f"Known kinds: {', '.join(sorted(KINDS))}. {_CONVERT}"
        raise UserError(f"an event of unknown kind {kind!r}", where, remedy)
    return where, kind, payload


def _field(record: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """The value of a key, or None where it is missing or null. Raises UserError for one of another type."""
    value = record.get(key)
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{key!r} is not {_TYPES[kind]}", where, _CONVERT)
    return value


def _request(payload: dict[str, Any], where: str) -> _Request:
    records = _field(payload, "messages", list, where)
    if not records:
        raise UserError("a request without messages", where, REMEDY)
    read = [_message(record, where) for record in records]
    return _Request(
        messages=tuple(message for message, _ in read),
        broken=frozenset(place for place, (_, broken) in enumerate(read) if broken),
        native=any(record.get("tool_calls") for record in records),
    )


def _message(record: Any, where: str) -> tuple[Message, bool]:
    """A message, and whether one of its calls has arguments that are no JSON object, so that it became text."""
    try:
        record = {**record, "content": _content(record.get("content"))}
        functions = [entry["function"] for entry in record.get("tool_calls") or []]
        said = [(function["name"], function["arguments"]) for function in functions]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"a message that cannot be read ({error})", where, _CONVERT) from error
    if not all(isinstance(name, str) for name in (record.get("role"), *(name for name, _ in said))):
        raise UserError("a message without a role, or a call without a name", where, _CONVERT)
    if all(_arguments(arguments) is not None for _, arguments in said):
        return Message.from_dict(record), False
    texts = [arguments if isinstance(arguments, str) else json.dumps(arguments) for _, arguments in said]
    return Message(record["role"], "\n".join(text for text in (record["content"], *texts) if text)), True


def _content(content: Any) -> str:
    """The text of a message: a string, null, or OpenAI's list of parts. Raises TypeError for parts other than text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part["text"], str) for part in content):
        raise TypeError("its content is no text")
    return "".join(part["text"] for part in content)


def _arguments(value: Any) -> dict[str, Any] | None:
    """A native call's arguments, as an object or as its JSON text; None for anything else."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _turn(payload: dict[str, Any], context: tuple[Message, ...], number: int, native: bool, where: str) -> Turn:
    """A turn whose reply is still to be found in the next context."""
    raw = payload.get("raw")
    text = raw if isinstance(raw, str) else None
    parsed = (_field(payload, "action", dict, where), _field(payload, "obj", dict, where))
    last_resort = {} if text is not None else _field(payload, "raw", dict, where)
    action = next((said for said in (*parsed, last_resort) if said is not None), {})
    if action.get("type") == "final":
        spoken = text if text is not None else json.dumps(action, ensure_ascii=False)
        return Turn(number, context, text, Message("assistant", spoken), final=action)
    args = _arguments(action.get("args")) if native else action.get("args")
    call = None
    if isinstance(action.get("name"), str) and isinstance(args, dict):
        call = ToolCall(action["name"], args)
    spoken = text if text is not None else json.dumps(action, ensure_ascii=False)
    turn = Turn(number, context, text, Message("assistant", spoken), call)
    if native and "args" in action and args is None:
        return _broken(turn, action["args"])
    return turn


def _broken(turn: Turn, arguments: Any) -> Turn:
    """A turn whose call has no arguments that can be read. They are its raw text, if nothing better is known."""
    said = arguments if isinstance(arguments, str) else None
    text = turn.text if turn.text is not None else said
    reply = turn.reply if text is None else Message("assistant", text)
    return replace(turn, text=text, reply=reply, call=None, broken_arguments=True)


def _with_reply(turn: Turn, after: _Request, native: bool) -> Turn:
    """The turn with the reply that the next request shows; where it shows none, its own words."""
    place = len(turn.context)
    if len(after.messages) > place and after.messages[place].role == "assistant":
        reply = after.messages[place]
        turn = _broken(turn, reply.content) if place in after.broken else turn
        return replace(turn, reply=reply)
    if native and turn.call:
        return replace(turn, reply=Message("assistant", "", (turn.call,)))
    return turn


def _end(last: dict[str, Any], where: str) -> tuple[str | None, bool | None]:
    """How it ended and whether it passed; a run that died of a reply it could not parse has ended, too."""
    if last["kind"] == "llm_parse_error":
        return "parse_error", False
    if last["kind"] != "run_end":
        return None, None
    state = _field(last["payload"], "state", dict, where) or {}
    test = _field(state, "last_test", dict, where) or {}
    return "run_end", test.get("ok") is True
