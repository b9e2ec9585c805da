"""A model behind any server that speaks OpenAI's chat completions (Together, vLLM, SGLang, llama.cpp, OpenAI).

One client a model, shared by all rollouts. Bodies and answers are plain JSON, sent by the SDK's `post`: servers leave
out fields that the SDK's types require, and the walk of `create` through every message of a long conversation costs
more processor time than all of ours.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

from repo_agent.chat.tokens import ids_hash
from repo_agent.errors import InfraError, UserError
from repo_agent.keys import key_for, without_key
from repo_agent.messages import Message, Usage, call_ids, content_text, spoken
from repo_agent.models import LARGE, Ask, Completion, Request, Sampling, Served
from repo_agent.models.canary import WAYS, prove
from repo_agent.models.retry import Patience, Transient, persistently, retry_after

LIST_SECONDS = 30.0
"""How long the list of a server's models may take; without it nothing is known of an adapter's base, and vLLM is not
asked for token ids."""
_RETRIED = frozenset({408, 409, 425, 429})
_STOPS = {
    401: ("the server refused the key", "Is it the right key for this server?"),
    402: ("the account has no credit left", "Add credit, then give the same command again"),
    403: ("the server does not allow this key or this model", "Is the model open to this account?"),
    404: ("the server knows no such model or address", "Is the name right, and does the base URL end in /v1?"),
}
"""What no retry cures, and no other rollout either."""
_CONTEXT_FULL = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|available context size|context size has been"
    r" exceeded|longer than the model's context length|exceeds? (the )?context (window|length)|max_new_tokens` must be",
    re.IGNORECASE,
)
"""OpenAI and vLLM, llama.cpp, SGLang, Together."""


class OpenAIChat:
    """The model `name` behind the server at `base_url`; the key is looked up by `keys.key_for`.

    Raises UserError when a server elsewhere is named and no key is there.
    """

    def __init__(self, name: str, base_url: str, patience: Patience | None = None) -> None:
        from httpx2 import Limits
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self.name = f"openai:{name}@{base_url}"
        self._model = name
        self._key = key_for(base_url)
        self._patience = patience or Patience()
        # OpenAI's newer models refuse `max_tokens`; other servers know only that.
        self._cap = "max_completion_tokens" if urlsplit(base_url).hostname == "api.openai.com" else "max_tokens"
        self._way = "response_format"
        self._list: asyncio.Future[dict[str, Any]] | None = None
        # By default only 100 connections are kept open: more rollouts would greet the server anew at every turn.
        self._client = AsyncOpenAI(
            api_key=self._key,
            base_url=base_url,
            max_retries=0,
            timeout=self._patience.request_seconds,
            http_client=DefaultAsyncHttpxClient(limits=Limits(max_connections=None, max_keepalive_connections=None)),
        )

    async def complete(self, request: Request) -> Completion:
        """Draw one reply; see `models.Model`. Raises UserError where the server turns us away for good."""
        body, tries = self._body(request), 0
        if (await self._cards()).get(self._model, {}).get("owned_by") == "vllm":
            body["return_token_ids"] = True

        def count() -> None:
            nonlocal tries
            tries += 1

        answer = await persistently(lambda: self._ask(body), self._patience, self.name, count)
        return _completion(answer, request, tries) if answer else Completion("", "context")

    async def constraint(self, schema: dict[str, Any], ask: Ask) -> str:
        """The field by which this server takes a schema, found by `canary.prove`."""

        async def attempt(way: str, messages: tuple[Message, ...], held: dict[str, Any]) -> Completion:
            self._way = way
            return await ask(Request(messages, Sampling(0.0, 300), 0, held))

        self._way = await prove(attempt, schema, self.name)
        return self._way

    async def bases(self) -> list[str]:
        """On what the server says that it runs this model, an adapter: its base's name, and where that came from.

        Empty where it does not say, as most servers do not; vLLM does.
        """
        cards = await self._cards()
        parent = cards.get(self._model, {}).get("parent")
        names = [parent, cards.get(parent, {}).get("root")] if isinstance(parent, str) else []
        return list(dict.fromkeys(name for name in names if isinstance(name, str)))

    async def close(self) -> None:
        await self._client.close()

    async def _cards(self) -> dict[str, Any]:
        """The server's list of models, by name; asked for once, and empty where it has none."""
        if self._list is None:
            self._list = asyncio.ensure_future(self._read_list())
        return await asyncio.shield(self._list)

    async def _read_list(self) -> dict[str, Any]:
        from httpx2 import Response
        from openai import APIError

        try:
            async with asyncio.timeout(LIST_SECONDS):
                answer = await self._client.get("/models", cast_to=Response)
            return {card["id"]: card for card in json.loads(answer.content)["data"]}
        except (APIError, TimeoutError, ValueError, TypeError, LookupError, RecursionError):
            return {}

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """One try: the answer's JSON, or None where the prompt leaves no room for a reply."""
        from httpx2 import Response
        from openai import APIConnectionError, APIStatusError

        try:
            answer = await self._client.post("/chat/completions", cast_to=Response, body=body)
        except APIStatusError as error:
            text = f"{error.status_code} {error.message} {json.dumps(error.body, default=str)}"
            if _CONTEXT_FULL.search(text):
                return None
            raise self._refusal(error) from None
        except APIConnectionError as error:
            cause = error.__cause__ or error
            raise Transient(self._clean(f"{error} ({type(cause).__name__}: {cause})")) from None
        if len(answer.content) > LARGE:
            return await asyncio.to_thread(self._read, answer)
        return self._read(answer)

    def _refusal(self, error: Any) -> Exception:
        """What a status of 400 or more means for us."""
        status: int = error.status_code
        if status in _STOPS or error.code == "insufficient_quota":
            what, remedy = _STOPS.get(status, _STOPS[402])
            return UserError(f"{what} ({status})", self.name, remedy)
        cause = self._clean(error.message)
        if status in _RETRIED or status >= 500:
            return Transient(cause, retry_after(error.response.headers))
        return InfraError("model", f"{self.name}: {cause}")

    def _read(self, response: Any) -> dict[str, Any]:
        kind = response.headers.get("content-type", "")
        if "json" not in kind:
            raise Transient(f"answered with {self._clean(kind) or 'no content type'}, not with JSON")
        try:
            answer = without_key(json.loads(response.content), self._key)
        except (ValueError, RecursionError):
            raise Transient("answered with text that is not valid JSON") from None
        choices = answer.get("choices") if isinstance(answer, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict) or not isinstance(first.get("message"), dict):
            raise Transient("answered without a choice")
        if first.get("finish_reason") == "content_filter":
            raise InfraError("model", f"{self.name} withheld the reply (content_filter)")
        found: dict[str, Any] = answer
        return found

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": _wire(request.messages),
            "temperature": request.sampling.temperature,
            self._cap: request.sampling.max_tokens,
            "seed": request.seed,
        }
        if request.tools is not None:
            body["tools"] = request.tools
        if request.schema is not None:
            body |= WAYS[self._way](request.schema)
        return body

    def _clean(self, text: str) -> str:
        """A server's words on one line, cut, without the key."""
        return " ".join(without_key(text, self._key).split())[:200]


def _wire(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as servers take them: arguments as the JSON strings they were, each answer with its call's id."""
    rows: list[dict[str, Any]] = []
    for message, ids, answered in call_ids(messages):
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            row["tool_calls"] = [
                {
                    "id": own,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.wire or _json(call.args)},
                }
                for own, call in zip(ids, message.tool_calls, strict=True)
            ]
        if answered:
            row["tool_call_id"] = answered
        rows.append(row)
    return rows


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _completion(answer: dict[str, Any], request: Request, tries: int) -> Completion:
    choice = answer["choices"][0]
    text, parsed = _text(choice["message"], request)
    usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
    drawn = _count(usage, "completion_tokens", bool(text))
    finish = choice.get("finish_reason")
    full = finish == "length" or (drawn is not None and drawn >= request.sampling.max_tokens)
    ids = answer.get("prompt_token_ids")
    return Completion(
        text,
        "length" if full else "stop",
        Usage(_count(usage, "prompt_tokens", 1), drawn),
        prompt_ids_hash=ids_hash(ids) if isinstance(ids, list) else None,
        raw_unknown=parsed,
        served=Served(_word(finish), _word(answer.get("model")), _word(answer.get("system_fingerprint")), tries),
    )


def _text(message: dict[str, Any], request: Request) -> tuple[str, bool]:
    """The reply as one text, and whether the server's parser had taken calls out of it.

    Calls that nobody asked the server to look for are restored in the tags that servers look for.
    """
    content, older = _plain(content_text(message.get("content"))), message.get("function_call")
    entries = message.get("tool_calls") or ([{"function": older}] if isinstance(older, dict) else [])
    functions = [entry.get("function") if isinstance(entry, dict) else None for entry in entries]
    calls = [_call(function if isinstance(function, dict) else {}) for function in functions]
    if request.tools is not None:
        return spoken(content, calls), bool(calls)
    back = [
        f'<tool_call>\n{{"name": {_json(call["name"])}, "arguments": {call["arguments"]}}}\n</tool_call>'
        for call in calls
    ]
    return "\n".join([content, *back] if content else back), bool(calls)


def _call(function: dict[str, Any]) -> dict[str, Any]:
    name, said = function.get("name"), function.get("arguments")
    arguments = said if isinstance(said, str) else _json(said)
    return {"name": _plain(name) if isinstance(name, str) else name, "arguments": _plain(arguments)}


def _plain(value: Any) -> str:
    """A text that UTF-8 can carry: half an emoji, cut off by a server, becomes a question mark."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _count(usage: Any, key: str, least: int) -> int | None:
    """A count of tokens; None where there is none, or one that cannot be: fewer than `least`."""
    value = usage.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None
