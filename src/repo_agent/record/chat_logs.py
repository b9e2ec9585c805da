"""Chat completions that someone logged: JSONL, a JSON array, or one object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.record.conversation import Conversation
from repo_agent.record.conversations import Conversations
from repo_agent.record.wire import ChatRequest, Reply, read_reply, read_request, value_of

EACH = 'Each entry is {"request", "response"}, or {"messages", "tools", "passed"}'
_TASKS = ("task", "instance_id")
"""Fields that name an entry's task."""


def read_chats(conversations: Conversations, path: Path) -> list[UserError]:
    """One file. Requests of one conversation may be anywhere in it, in their order."""
    faults: list[UserError] = []
    for where, record in _records(path):
        try:
            if isinstance(record, UserError):
                raise record
            if not isinstance(record, dict):
                raise UserError("not a JSON object", where, EACH)
            _entry(conversations, record, where)
        except UserError as fault:
            faults.append(fault)
    return faults


def _entry(conversations: Conversations, record: dict[str, Any], where: str) -> None:
    said = read_request(_body(record))
    if said is None:
        raise UserError("no list of messages in it", where, EACH)
    response = record.get("response")
    if response is not None or "request" in record:
        conversation = _exchange(conversations, said, response)
        _mark(conversation, record)
        return
    named = next((record[key] for key in _TASKS if isinstance(record.get(key), str) and record[key]), None)
    conversation = _conversation(conversations, said, where, named)
    _mark(conversation, record)
    conversations.end([conversation], "stopped")


def _mark(conversation: Conversation, record: dict[str, Any]) -> None:
    if isinstance(record.get("passed"), bool):
        conversation.mark(record["passed"])


def _body(record: dict[str, Any]) -> dict[str, Any]:
    """The request's body; tools and the like may be in `kwargs`; it and its messages may be JSON as text."""
    request = _object(record.get("request", record))
    request = _object(request.get("body", request))
    kwargs = [one["kwargs"] for one in (request, record) if isinstance(one.get("kwargs"), dict)]
    body = {**(kwargs[0] if kwargs else {}), **{key: value for key, value in request.items() if value is not None}}
    return {**body, "messages": value_of(body.get("messages"))}


def _object(sent: Any) -> dict[str, Any]:
    found = value_of(sent)
    return found if isinstance(found, dict) else {}


def _exchange(conversations: Conversations, said: ChatRequest, response: Any) -> Conversation:
    response = value_of(response)
    body = value_of(response.get("body", response)) if isinstance(response, dict) else None
    conversation = conversations.take(said)
    conversation.busy = False
    try:
        if not isinstance(body, dict) or not body.get("choices"):
            answer = body.get("error") if isinstance(body, dict) else body
            raise ValueError(f"the log holds no completion: {json.dumps(answer)[:10_000]}")
        reply = read_reply(body)
    except (ValueError, TypeError, AttributeError) as error:
        conversation.fail(said, str(error), None)
        return conversation
    conversation.exchange(said, reply, None)
    return conversation


def _conversation(conversations: Conversations, said: ChatRequest, where: str, task: str | None) -> Conversation:
    """A whole conversation: every assistant message is a turn; its request is all that is before it."""
    turns = [place for place, message in enumerate(said.messages) if message.role == "assistant"]
    if not turns:
        raise UserError("a conversation without an assistant message", where, EACH)
    protocol = "native" if said.native else "json"
    conversation = conversations.begin(said.until(turns[0]), task=task, protocol=protocol)
    for place in turns:
        conversation.exchange(said.until(place), reply_of(said, place), None)
    return conversation


def reply_of(said: ChatRequest, place: int) -> Reply:
    """The reply that a message of a conversation was."""
    message = said.messages[place]
    return Reply(str(message.content), [{**call["function"], "id": call.get("id")} for call in message.tool_calls])


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry with its place; what is not JSON as the error that says so."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        first = next(lines)
        if first[1].lstrip().startswith("["):
            yield from _array(path)
            return
        for number, line in chain([first], lines):
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == first[0] and (whole := _whole(path)) is not None:
                    yield f"{path}", whole
                    return
                yield f"{path}:{number}", UserError(f"not JSON ({error})", f"{path}:{number}", EACH)


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    whole = _whole(path)
    if not isinstance(whole, list):
        raise UserError("not JSON: a list that does not end, or is broken", str(path), EACH)
    yield from ((f"{path}: entry {number}", record) for number, record in enumerate(whole, 1))


def _whole(path: Path) -> Any:
    """The JSON value that a file is; None where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
