"""The chat-completions wire: what a request asks, what a reply says, whole or as a stream of server-sent events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from repo_agent.messages import THOUGHTS, canonical_json, content_text, spoken
from repo_agent.traces.events import WireMessage

SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "seed", "stop", "n", "tool_choice",
    "parallel_tool_calls", "presence_penalty", "frequency_penalty", "response_format", "reasoning_effort",
)  # fmt: skip
"""The keys of a request's body that a trace keeps; no other, so that no key or token of a vendor's own gets in."""


@dataclass(frozen=True)
class ChatRequest:
    """A chat request. `hashes[n]` stands for the first n messages: equal hashes, equal beginnings."""

    messages: tuple[WireMessage, ...]
    tools: list[dict[str, Any]] | None
    model: str | None
    sampling: dict[str, Any]
    hashes: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether calls stand beside the text."""
        return bool(self.tools) or any(message.tool_calls for message in self.messages)

    @cached_property
    def contract(self) -> str:
        """Changes with the model and the tools: one rollout has one of each."""
        return _hash([self.model, self.tools])

    def until(self, place: int) -> ChatRequest:
        """The request that the first `place` messages make up."""
        return replace(self, messages=self.messages[:place], hashes=self.hashes[: place + 1])

    @property
    def seed(self) -> int | None:
        seed = self.sampling.get("seed")
        return seed if type(seed) is int else None

    @property
    def goal(self) -> str:
        """The first user message."""
        return next((text_of(message) for message in self.messages if message.role == "user"), "")


@dataclass(frozen=True)
class Reply:
    """What a server answered. None where it did not say."""

    text: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Calls beside the text: {"name", "arguments"} and, where the server gave one, "id"; arguments as sent."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning: str = ""
    """What the server sent apart as the model's thoughts."""

    @property
    def spoken(self) -> str:
        """The reply as one text; see `messages.spoken`."""
        return spoken(self.text, self.calls) if self.calls else self.text


def read_request(body: Mapping[str, Any]) -> ChatRequest | None:
    """A request's body, read; None where it holds no list of messages."""
    raw = body.get("messages")
    if not isinstance(raw, list) or not all(isinstance(message, dict) for message in raw):
        return None
    messages = tuple(message for message in map(wire_message, raw) if not _empty_system(message))
    tools = _tools(body)
    model = body.get("model")
    return ChatRequest(
        messages=messages,
        tools=tools or None,
        model=model if isinstance(model, str) else None,
        sampling={key: body[key] for key in SAMPLING if body.get(key) is not None},
        hashes=_chain(messages),
    )


def wire_message(raw: Mapping[str, Any]) -> WireMessage:
    """A message as a trace keeps it: `developer` is `system`, the older `function` is `tool`, parts become text, calls
    keep their arguments as sent."""
    role = raw.get("role")
    answered = raw.get("tool_call_id")
    return WireMessage(
        role={"developer": "system", "function": "tool"}.get(str(role), str(role)),
        content=content_text(raw.get("content")),
        tool_calls=list(map(_kept, calls_of(raw))),
        tool_call_id=answered if isinstance(answered, str) else "",
    )


def text_of(message: WireMessage) -> str:
    """The text of a message that was read off the wire."""
    return message.content if isinstance(message.content, str) else ""


def value_of(sent: Any) -> Any:
    """What may be sent as a value or as JSON text; a text that is not JSON stays one."""
    try:
        return json.loads(sent.strip() or "{}") if isinstance(sent, str) else sent
    except (ValueError, RecursionError):
        return sent


def names_and_arguments(calls: Iterable[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """What calls say, whatever their ids and the white space in their arguments."""
    said = [call.get("function", call) for call in calls]
    return [(one.get("name"), value_of(one.get("arguments"))) for one in said if isinstance(one, Mapping)]


def read_reply(body: Mapping[str, Any]) -> Reply:
    """A whole completion. Raises ValueError where it holds no choice."""
    choice = first_choice(body)
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise ValueError("no choice in the reply")
    return Reply(
        content_text(message.get("content")),
        list(map(_call, calls_of(message))),
        finish_reason_of(choice),
        *usage_of(body),
        reasoning=reasoning_of(message),
    )


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The thoughts of a message or a delta: a field of their own, or parts of the content."""
    own = next((message[key] for key in ("reasoning_content", "reasoning") if isinstance(message.get(key), str)), "")
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    thoughts = [part for part in parts if part.get("type") in THOUGHTS]
    return own + "".join(content_text(part.get("thinking", part.get("text"))) for part in thoughts)


def first_choice(body: Mapping[str, Any]) -> dict[str, Any] | None:
    choices = body.get("choices")
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return next((choice for choice in found if not choice.get("index")), None)


def finish_reason_of(choice: Mapping[str, Any]) -> str | None:
    """Why a reply ended; None where the server does not say, in whatever way."""
    reason = choice.get("finish_reason")
    return reason if reason and isinstance(reason, str) else None


def usage_of(body: Mapping[str, Any]) -> tuple[int | None, int | None]:
    usage = body.get("usage")
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    prompt, completion = [count if type(count) is int else None for count in counts] or (None, None)
    return prompt, completion


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of a request, a list or one as JSON text, or the `functions` of the older wire."""
    older = body.get("functions")
    functions = [{"type": "function", "function": one} for one in older] if isinstance(older, list) else []
    found = value_of(body.get("tools") or functions)
    return [tool for tool in found if isinstance(tool, dict)] if isinstance(found, list) else []


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a message or a delta, that of the older `function_call` among them."""
    calls, older = message.get("tool_calls"), message.get("function_call")
    found = calls if isinstance(calls, list) and calls else [{"function": older}] if isinstance(older, dict) else []
    return [call for call in found if isinstance(call, dict)]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function, custom = call.get("function"), call.get("custom")
    said = function if isinstance(function, dict) else {}
    record = {"name": said.get("name"), "arguments": said.get("arguments")}
    if isinstance(custom, dict):
        record = {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}
    return {**record, "id": call["id"]} if isinstance(call.get("id"), str) else record


def _kept(call: Mapping[str, Any]) -> dict[str, Any]:
    said = _call(call)
    function = {"name": str(said["name"]), "arguments": said["arguments"]}
    return {**({"id": said["id"]} if "id" in said else {}), "type": "function", "function": function}


def _empty_system(message: WireMessage) -> bool:
    return message.role == "system" and not message.content


def _chain(messages: Sequence[WireMessage]) -> tuple[str, ...]:
    hashes = [""]
    for message in messages:
        said = [message.role, message.content, names_and_arguments(message.tool_calls)]
        hashes.append(_hash([hashes[-1], said]))
    return tuple(hashes)


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode(errors="surrogatepass")).hexdigest()
