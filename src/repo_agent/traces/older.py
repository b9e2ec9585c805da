"""The older trace shape: `{ts, kind, payload, run_id, meta}`, every `llm_request` with all messages.

Assistant turns are OpenAI `tool_calls` (native), or JSON text (json). The raw reply is known only where its parse
failed; elsewhere a turn holds the parsed action, under `action`, or `obj` or `raw` in the oldest files. Contexts are
taken as they were sent, with the driver's own notes in them; reflection events are not turns. A native call whose
arguments are not a JSON object is the model's fault, to be counted: its message keeps them as text, without the call.

A request repeats all that was sent before, so of each only what follows the text of the one before is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.traces.trace import REMEDY, Trace, Turn

KINDS = frozenset(
    "run_start llm_request llm_action llm_parse_error tool_result tests driver_note reflection_request reflection "
    "final run_end".split()
)
Lines = Sequence[tuple[int, bytes]]
_CONVERT = "Remove the file, or convert it"
_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_MARKS = ('"messages": [', '"messages":[')
"""How a request's list of messages begins; inside a JSON text the quotes are escaped."""
_DECODER = json.JSONDecoder()


@dataclass
class _Conversation:
    """The messages of requests that continue each other."""

    messages: list[Message] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    """Places of messages with a call whose arguments are not an object."""


@dataclass(frozen=True)
class _Request:
    """One request: the first `length` messages of its conversation."""

    conversation: _Conversation
    length: int

    def shown(self, place: int) -> Message | None:
        """The message at a place, where this request holds one."""
        return self.conversation.messages[place] if place < self.length else None


def older_trace(path: Path, lines: Lines, problems: list[str]) -> Trace:
    """Put a Trace together from the lines of an older file. Raises UserError for a line that it does not know."""
    requests = _Requests()
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


class _Requests:
    """Reads requests, each as what it adds to the one before."""

    def __init__(self) -> None:
        self.last: _Request | None = None
        self.native = False
        self._seen = ""
        """The text of the last request's messages, as it stood between the brackets."""
        self._fresh: list[Any] | None = None
        self._continues = False

    def envelope(self, line: bytes, where: str) -> dict[str, Any]:
        """A line's object; of a request's messages only those that are new, which `add` takes."""
        self._fresh = None
        try:
            text = line.decode()
            start = max(text.find(mark) + len(mark) if mark in text else -1 for mark in _MARKS)
            if start < 0 or '"llm_request"' not in text[:start]:
                record = _DECODER.decode(text)
            else:
                record = self._request(text, start)
        except (ValueError, RecursionError) as error:
            raise UserError("not a JSON object", where, REMEDY) from error
        if not isinstance(record, dict):
            raise UserError("not a JSON object", where, REMEDY)
        return record

    def _request(self, text: str, start: int) -> Any:
        """`start` is where the messages begin, after the bracket."""
        shared = len(self._seen) if self._seen and text.startswith(self._seen, start) else 0
        rest = start + shared
        self._continues = bool(shared)
        new = text[rest:].lstrip(", ") if shared else text[rest:]
        self._fresh, end = _DECODER.raw_decode(f"[{new}")
        close = len(text) - len(new) + end - 2  # where the list's own closing bracket is
        self._seen = text[start:close].rstrip()
        return _DECODER.decode(text[:start] + text[close:])

    def add(self, payload: dict[str, Any], where: str) -> None:
        """Take a request's messages. Raises UserError for one without, or with one that cannot be read."""
        continues = self._continues and self._fresh is not None
        self._seen = "" if self._fresh is None else self._seen
        fresh = self._fresh if self._fresh is not None else _field(payload, "messages", list, where)
        before = self.last if continues else None
        if not fresh and not (before and before.length):
            raise UserError("a request without messages", where, REMEDY)
        read = [_message(record, where) for record in fresh or []]
        self.native = self.native or any(record.get("tool_calls") for record in fresh or [])
        conversation = before.conversation if before else self._same(read)
        place = before.length if before else 0
        for message, broken in read[len(conversation.messages) - place :]:
            conversation.broken |= {len(conversation.messages)} if broken else set()
            conversation.messages.append(message)
        self.last = _Request(conversation, place + len(read))

    def _same(self, read: list[tuple[Message, bool]]) -> _Conversation:
        """The last conversation where these messages continue it in another spelling, else a new one."""
        if self.last and self.last.length == len(self.last.conversation.messages):
            known = self.last.conversation.messages
            if [message for message, _ in read[: len(known)]] == known:
                return self.last.conversation
        return _Conversation()


def _turns(events: list[Any], native: bool) -> list[Turn]:
    turns: list[Turn] = []
    asked: list[_Request] = []
    request: _Request | None = None
    for where, kind, _, payload, request in events:
        if kind in ("llm_action", "llm_parse_error"):
            if request is None:
                raise UserError("the request of this reply is missing", where, REMEDY)
            asked.append(request)
            turns.append(_turn(payload, request, len(turns), native, where))
        elif kind == "tool_result" and turns:
            result = _field(payload, "obs", dict, where) or {}
            ok, output = _field(result, "ok", bool, where), _field(result, "output", str, where)
            turns[-1] = replace(turns[-1], ok=ok, output=output)
    following = [*asked[1:], request] if request and turns else []
    return [_with_reply(turn, after, native) for turn, after in zip(turns, following, strict=True)]


def _trace(path: Path, events: list[Any], turns: list[Turn], requests: _Requests, problems: list[str]) -> Trace:
    where, _, first, _, _ = events[0]
    last_where, last_kind, _, last, _ = events[-1]
    meta = _field(first, "meta", dict, where) or {}
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
        model=_field(meta, "model", str, where),
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
        remedy = f"Known kinds: {', '.join(sorted(KINDS))}. {_CONVERT}"
        raise UserError(f"an event of unknown kind {kind!r}", where, remedy)
    return kind, payload


def _field(record: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """The value of a key, or None where it is missing or null. Raises UserError for one of another type."""
    value = record.get(key)
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{key!r} is not {_TYPES[kind]}", where, _CONVERT)
    return value


def _message(record: Any, where: str) -> tuple[Message, bool]:
    """A message, and whether one of its calls has arguments that are not a JSON object, so that it became text."""
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


def _turn(payload: dict[str, Any], request: _Request, number: int, native: bool, where: str) -> Turn:
    """A turn whose reply is still to be found in the next request."""
    raw = payload.get("raw")
    text = raw if isinstance(raw, str) else None
    parsed = (_field(payload, "action", dict, where), _field(payload, "obj", dict, where))
    last_resort = {} if text is not None else _field(payload, "raw", dict, where)
    action = next((said for said in (*parsed, last_resort) if said is not None), {})
    reply = Message("assistant", text if text is not None else json.dumps(action, ensure_ascii=False))
    turn = Turn(t=number, messages=request.conversation.messages, at=request.length, text=text, reply=reply)
    if action.get("type") == "final":
        return replace(turn, final=action)
    args = _arguments(action.get("args")) if native else action.get("args")
    if isinstance(action.get("name"), str) and isinstance(args, dict):
        turn = replace(turn, call=ToolCall(action["name"], args))
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
    reply = after.shown(turn.at)
    if reply is not None and reply.role == "assistant":
        turn = _broken(turn, reply.content) if turn.at in after.conversation.broken else turn
        return replace(turn, reply=reply)
    if native and turn.call:
        return replace(turn, reply=Message("assistant", "", (turn.call,)))
    return turn


def _end(kind: str, payload: dict[str, Any], where: str) -> tuple[str | None, bool | None]:
    """How it ended and whether it passed; a run that died of a reply it could not parse has ended, too."""
    if kind == "llm_parse_error":
        return "parse_error", False
    if kind != "run_end":
        return None, None
    state = _field(payload, "state", dict, where) or {}
    test = _field(state, "last_test", dict, where) or {}
    return "run_end", test.get("ok") is True
