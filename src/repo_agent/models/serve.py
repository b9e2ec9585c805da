"""Local models behind an OpenAI-compatible server on loopback: base and adapters by name, for agents that are clients.

Made for small models and worked examples: each name has its own weights. vLLM serves large ones.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from repo_agent.errors import InfraError, UserError
from repo_agent.messages import Message, read_spoken
from repo_agent.models import Completion, Model, Request, Sampling
from repo_agent.models.resolve import open_model

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
DEFAULT_CAP = 4096
"""Tokens of a reply, where a request names no cap."""
HOTTEST = 5.0
MAX_BODY = 64 * 2**20
"""Bytes of a request."""
_ROLES = frozenset({"system", "user", "assistant", "tool"})
OnStart = Callable[[str], None]
"""Is told the base URL."""


def serve(specs: Mapping[str, str], port: int, on_start: OnStart) -> None:
    """Serve the models, name → spec, until SIGINT or SIGTERM.

    Raises UserError for a model that is not there, a port in use, or a missing aiohttp.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise UserError("needs aiohttp", "serve", "pip install 'repo-agent[record]'") from error
    asyncio.run(_until_signal(specs, port, on_start))


async def serving(specs: Mapping[str, str], port: int, on_start: OnStart, until: Callable[[], Awaitable[Any]]) -> None:
    """Serve until `until` returns; see `serve`."""
    from aiohttp import web

    models = {name: open_model(spec) for name, spec in specs.items()}
    runner = web.AppRunner(_app(models), access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        on_start(f"http://{HOST}:{runner.addresses[0][1]}/v1")
        await until()
    except OSError as error:
        raise UserError(f"cannot listen on {HOST}:{port} ({error.strerror})", "--port", "Give another, or 0") from error
    finally:
        await runner.cleanup()
        for model in models.values():
            await model.close()


async def _until_signal(specs: Mapping[str, str], port: int, on_start: OnStart) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serving(specs, port, on_start, stop.wait)


def _app(models: Mapping[str, Model]) -> web.Application:
    from aiohttp import web

    from repo_agent.sites import beginning, guard

    async def listed(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

    async def complete(http: web.Request) -> web.StreamResponse:
        read, whole = await beginning(http, MAX_BODY)
        if not whole:
            return _refused(413, f"a request has {MAX_BODY >> 20} MiB at most")
        try:
            body = json.loads(read)
            name = body["model"]
            model = models.get(name)
            request = _request(body)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            return _refused(400, f"no chat completion request ({type(error).__name__}: {error})")
        if model is None:
            return _refused(404, f"no model {name!r}; there are: {', '.join(models)}", "model_not_found")
        try:
            completion = await model.complete(request)
        except (UserError, InfraError) as error:
            return _refused(400 if isinstance(error, UserError) else 500, str(error))
        if completion.finish_reason == "context":
            return _refused(400, "the prompt leaves no room in the maximum context length", "context_length_exceeded")
        if not body.get("stream"):
            return web.json_response(_answer(name, completion, _said(request, completion)))
        return await _streamed(http, name, completion, _said(request, completion))

    app = web.Application(middlewares=[guard(_not_for_pages)])
    app.add_routes([web.get("/v1/models", listed), web.post("/v1/chat/completions", complete)])
    return app


def _request(body: Mapping[str, Any]) -> Request:
    """Raises ValueError, KeyError, TypeError, AttributeError, ArithmeticError or RecursionError for another shape."""
    form = body.get("response_format") or {}
    cap = int(body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_CAP)
    temperature, seed = body.get("temperature"), body.get("seed")
    temperature = 1.0 if temperature is None else float(temperature)
    if body.get("n", 1) != 1 or not body["messages"]:
        raise ValueError("one reply to one conversation is served")
    if not 0 <= temperature <= HOTTEST or cap < 1:
        raise ValueError(f"temperature {temperature} or max_tokens {cap} is out of range")
    return Request(
        tuple(_message(message) for message in body["messages"]),
        Sampling(temperature, cap),
        secrets.randbelow(2**31) if seed is None else int(seed) % 2**31,
        form["json_schema"]["schema"] if form.get("type") == "json_schema" else None,
        body.get("tools") or None,
    )


def _message(message: dict[str, Any]) -> Message:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    if role not in _ROLES or not isinstance(content, str):
        raise ValueError(f"role {role!r} with content {type(content).__name__}")
    return Message.from_dict({**message, "role": role, "content": content})


def _answer(name: str, completion: Completion, said: tuple[dict[str, Any], str]) -> dict[str, Any]:
    message, reason = said
    return {
        **_head(name, "chat.completion"),
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}],
        "usage": _usage(completion),
    }


def _usage(completion: Completion) -> dict[str, int]:
    prompt, reply = completion.usage.prompt_tokens or 0, completion.usage.completion_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


def _head(name: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(8)}", "object": kind, "created": int(time.time()), "model": name}


def _said(request: Request, completion: Completion) -> tuple[dict[str, Any], str]:
    """Content and calls of a reply, and its finish reason."""
    content, calls = (completion.text, []) if request.tools is None else read_spoken(completion.text)
    if not calls:
        return {"content": content}, completion.finish_reason
    numbered = [
        {"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": call} for call in calls
    ]  # fmt: skip
    return {"content": content or None, "tool_calls": numbered}, "tool_calls"


async def _streamed(
    http: web.Request, name: str, completion: Completion, said: tuple[dict[str, Any], str]
) -> web.StreamResponse:
    """The reply as server-sent events: all that was said in one, the finish reason and the usage in the next."""
    from aiohttp import web

    message, reason = said
    if "tool_calls" in message:
        message["tool_calls"] = [{"index": place, **call} for place, call in enumerate(message["tool_calls"])]
    head = _head(name, "chat.completion.chunk")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(http)
    first = {"index": 0, "delta": {"role": "assistant", **message}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    for event in ({**head, "choices": [first]}, {**head, "choices": [last], "usage": _usage(completion)}):
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _not_for_pages(header: str) -> web.Response:
    return _refused(403, f"this server is for programs of this machine alone; see {header}")


def _refused(status: int, message: str, code: str | None = None) -> web.Response:
    from aiohttp import web

    return web.json_response(
        {"error": {"message": message, "type": "invalid_request_error", "code": code}}, status=status
    )
