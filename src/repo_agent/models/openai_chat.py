"""`openai:NAME@BASE_URL`: any OpenAI-compatible chat server (vLLM, SGLang, llama.cpp, Together, OpenAI)."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from repo_agent.errors import InfraError, UserError
from repo_agent.messages import Usage
from repo_agent.models import Completion, Request

KEY = "OPENAI_API_KEY"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class OpenAIChat:
    """The model `name` behind the server at `base_url`. The key comes from OPENAI_API_KEY; loopback needs none.

    Raises UserError when another server is named and no key is set.
    """

    def __init__(self, name: str, base_url: str) -> None:
        from openai import AsyncOpenAI

        self.name = f"openai:{name}@{base_url}"
        self._model = name
        self._key = os.environ.get(KEY) or ("none" if urlsplit(base_url).hostname in _LOOPBACK else "")
        if not self._key:
            raise UserError("needs a key", base_url, f"Set {KEY} in the environment")
        self._client = AsyncOpenAI(api_key=self._key, base_url=base_url)

    async def complete(self, request: Request) -> Completion:
        """Draw one reply; see `models.Model`."""
        from openai import OpenAIError

        try:
            answer = await self._client.chat.completions.create(**self._body(request))
        except OpenAIError as error:
            if _context_full(error):
                return Completion("", "context")
            raise InfraError("model", self._told(error)) from None
        if not answer.choices:
            raise InfraError("model", f"{self.name} sent no choice")
        choice, usage = answer.choices[0], answer.usage
        if choice.finish_reason == "content_filter":
            raise InfraError("model", f"{self.name} withheld the reply (content_filter)")
        return Completion(
            choice.message.content or "",
            "length" if choice.finish_reason == "length" else "stop",
            Usage(usage.prompt_tokens, usage.completion_tokens) if usage else Usage(),
        )

    async def close(self) -> None:
        await self._client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": request.sampling.temperature,
            "max_tokens": request.sampling.max_tokens,
            "seed": request.seed,
        }
        if request.schema is not None:
            schema = {"name": "reply", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _told(self, error: Exception) -> str:
        """One short line about a failure, without the key: error texts may repeat what was sent."""
        status = getattr(error, "status_code", None)
        said = " ".join(str(error).replace(self._key, "***").split())[:200]
        detail = "the server refused the key" if status in (401, 403) else said
        return f"{self.name}: {type(error).__name__}: {detail}"


def _context_full(error: Exception) -> bool:
    if getattr(error, "status_code", None) != 400:
        return False
    return getattr(error, "code", None) == "context_length_exceeded" or "maximum context length" in str(error)
