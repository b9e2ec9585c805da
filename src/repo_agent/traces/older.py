"""The older trace shape: `{ts, kind, payload, run_id, meta}`, every `llm_request` with all messages.

Assistant turns are OpenAI `tool_calls` (native), or JSON text (json). The raw reply is known only where its parse
failed; elsewhere a turn holds the parsed action, under `action`, or `obj` or `raw` in the oldest files. Contexts are
taken as they were sent, with the driver's own notes in them; reflection events are not turns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
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


def older_trace(path: Path, records: Records, problems: list[str]) -> Trace:
    """Put a Trace together from the lines of an older file. Raises UserError for a line that it does not know."""
    turns: list[Turn] = []
    context: tuple[Message, ...] = ()
    for number, record in records:
        where = f"{path}:{number}"
        kind, payload = _known(record, where)
        if kind == "llm_request":
            context = _messages(payload, where)
        elif kind in ("llm_action", "llm_parse_error"):
            if not context:
                raise UserError("the request of this reply is missing", where, REMEDY)
            turns.append(_turn(payload, context, len(turns)))
        elif kind == "tool_result" and turns:
            result = payload.get("obs") or {}
            turns[-1] = replace(turns[-1], ok=result.get("ok"), output=result.get("output"))
    turns = _with_replies(turns, context)
    return _trace(path, records, turns, context, problems)


def _trace(path: Path, records: Records, turns: list[Turn], context: tuple[Message, ...], problems: list[str]) -> Trace:
    meta = records[0][1].get("meta") or {}
    last_line, last = records[-1]
    ended, passed = _end(last)
    if ended is None:
        problems = [*problems, f"{path}:{last_line}: ends without run_end, so it counts as not passed"]
    task = str(meta.get("task_id") or records[0][1].get("run_id") or path.stem)
    return Trace(
        path=path,
        shape="older",
        task=task,
        group=task,
        task_hash=None,
        suite=None,
        rollout=None,
        arm=None,
        model=meta.get("model"),
        protocol="native" if any(message.tool_calls for message in context) else "json",
        system=context[0].content if context else "",
        tools=None,
        ended=ended,
        passed=passed,
        turns=tuple(turns),
        whole=ended is not None,
        problems=tuple(problems),
    )


def _known(record: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    kind, payload = record.get("kind"), record.get("payload")
    if kind not in KINDS or not isinstance(payload, dict):
        remedy = f"Known kinds: {', '.join(sorted(KINDS))}. Remove the file, or convert it"
        raise UserError(f"an event of unknown kind {kind!r}", where, remedy)
    return str(kind), payload


def _messages(payload: dict[str, Any], where: str) -> tuple[Message, ...]:
    try:
        messages = tuple(Message.from_dict(message) for message in payload["messages"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"a request with messages that cannot be read ({error})", where, REMEDY) from error
    if not messages:
        raise UserError("a request without messages", where, REMEDY)
    return messages


def _turn(payload: dict[str, Any], context: tuple[Message, ...], number: int) -> Turn:
    """A turn whose reply is still to be found in the next context."""
    said = next((payload[key] for key in ("action", "obj", "raw") if payload.get(key) is not None), None)
    raw = payload.get("raw")
    text = raw if isinstance(raw, str) else None
    action = said if isinstance(said, dict) else {}
    call = None
    if action.get("type") != "final" and isinstance(action.get("name"), str) and isinstance(action.get("args"), dict):
        call = ToolCall(action["name"], action["args"])
    spoken = text if text is not None else json.dumps(action, ensure_ascii=False)
    final = action if action.get("type") == "final" else None
    return Turn(number, context, text, Message("assistant", spoken), call, final)


def _with_replies(turns: list[Turn], last_context: tuple[Message, ...]) -> list[Turn]:
    """Each turn with the reply that the next request shows; the last keeps its own words."""
    native = any(message.tool_calls for message in last_context)
    following = [turn.context for turn in turns[1:]] + [last_context] * bool(turns)
    done = []
    for turn, after in zip(turns, following, strict=True):
        place = len(turn.context)
        if len(after) > place and after[place].role == "assistant":
            turn = replace(turn, reply=after[place])
        elif native and turn.call:
            turn = replace(turn, reply=Message("assistant", "", (turn.call,)))
        done.append(turn)
    return done


def _end(last: dict[str, Any]) -> tuple[str | None, bool | None]:
    """How it ended and whether it passed; a run that died of a reply it could not parse has ended, too."""
    if last["kind"] == "llm_parse_error":
        return "parse_error", False
    if last["kind"] != "run_end":
        return None, None
    test = (last["payload"].get("state") or {}).get("last_test") or {}
    return "run_end", test.get("ok") is True
