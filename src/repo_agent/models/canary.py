"""Proof that a server holds replies to a schema, before a run relies on it. Some ignore what they do not know.

The canary asks in plain words for one thing and allows another by schema alone: a free model says the first, a held one
can only say the second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from repo_agent.errors import InfraError, UserError
from repo_agent.messages import Message
from repo_agent.models import Completion
from repo_agent.models.grammar import gbnf

Attempt = Callable[[str, tuple[Message, ...], dict[str, Any]], Awaitable[Completion]]
"""Ask for a reply, held to a schema in the given way."""


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    held = {"name": "reply", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": held}}


def _structured_outputs(schema: dict[str, Any]) -> dict[str, Any]:
    return {"structured_outputs": {"json": schema}}


def _grammar(schema: dict[str, Any]) -> dict[str, Any]:
    return {"structured_outputs": {"grammar": gbnf(schema)}}


WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "grammar": _grammar,
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
}
"""What a request carries. vLLM knows all three, and only by the first a small model writes no white space to its cap.
OpenAI, Together, llama.cpp and SGLang know the second."""
_BLANK = re.compile(r"\s{20}")
"""White space in a reply that was cut off: the schema lets it go on for ever."""
_ODD = {"colour": "zinnwaldite"}
_SCHEMA = {
    "type": "object",
    "properties": {key: {"type": "string", "enum": [value]} for key, value in _ODD.items()},
    "required": list(_ODD),
    "additionalProperties": False,
}
_TALK = (Message("user", "Say the word hello, as plain text and nothing else."),)


async def prove(attempt: Attempt, schema: dict[str, Any], name: str) -> str:
    """The first of `WAYS` that holds. Raises UserError that says what each of them brought.

    `schema`, the run's own, is tried too: a server may hold a small schema and refuse this one.
    """
    seen = []
    for way in WAYS:
        fault = await _fault(attempt, way, schema, name)
        if fault is None:
            return way
        seen.append(f"{way}: {fault}")
    what = f"does not hold replies to a schema ({'; '.join(seen)})"
    raise UserError(
        what, name, "Leave out --constrain, or serve the model with structured outputs, by vLLM for example"
    )


async def _fault(attempt: Attempt, way: str, schema: dict[str, Any], name: str) -> str | None:
    try:
        said = (await attempt(way, _TALK, _SCHEMA)).text
        if not _is_odd(said):
            return f"the canary got {said[:40]!r}, which its schema forbids"
        reply = await attempt(way, _TALK, schema)
        said = reply.text
        if not said.lstrip().startswith("{"):
            return f"the run's own schema got {said[:40]!r}, which it forbids"
        if reply.finish_reason == "length" and _BLANK.search(said):
            return "the run's own schema got white space without an end"
    except InfraError as error:
        return error.cause.removeprefix(f"{name}: ")
    return None


def _is_odd(text: str) -> bool:
    try:
        return bool(json.loads(text) == _ODD)
    except (ValueError, RecursionError):
        return False
