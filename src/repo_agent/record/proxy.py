"""The proxy: every request is forwarded as it came; chat completions are recorded on their way back.

An exchange is on disk before the agent sees the end of the reply, so a kill loses none that the agent knows of.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientResponse, ClientSession, web
from yarl import URL

from repo_agent.errors import RepoAgentError, boundary
from repo_agent.record.bodies import MAX_BODY, decoded, object_of
from repo_agent.record.conversation import Conversation
from repo_agent.record.conversations import Conversations
from repo_agent.record.secrets import secrets_of
from repo_agent.record.stream import is_stream, read_stream
from repo_agent.record.wire import ChatRequest, Reply, read_reply, read_request
from repo_agent.sites import beginning, guard, joined

OWN = "X-Repo-Agent-"
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade host content-length expect".split()
)
_DONE = re.compile(rb"(?:^|\n)data: ?\[DONE\]")
_READ = 10_000
"""Characters of an error's body that are looked at."""

OnUpdate = Callable[[str | None], None]
"""Told when something was recorded, with a warning where something was not."""


class Proxy:
    """Forwards to `upstream`, the base URL that the agent would be given otherwise (with or without /v1)."""

    def __init__(
        self,
        upstream: str,
        conversations: Conversations,
        session: ClientSession,
        on_update: OnUpdate,
    ) -> None:
        self._base, self._conversations, self._session, self._on_update = (
            upstream.rstrip("/"),
            conversations,
            session,
            on_update,
        )
        parts = urlsplit(self._base)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        if not parts.path:
            self._base += "/v1"

    def app(self) -> web.Application:
        app = web.Application(middlewares=[guard(_not_for_pages)])
        app.router.add_post("/_repo_agent/mark", self.mark)
        app.router.add_get("/_repo_agent/conversations", self.conversations)
        app.router.add_route("*", "/{path:.*}", self.forward)
        return app

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on; record it where it is a chat completion."""
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            body, whole = await beginning(request, MAX_BODY)
            if not whole:
                self._unrecorded(request)
                return await self._plain(request, joined(body, request))
            fields = _fields(body, request.headers.get("Content-Encoding", ""))
            chat = read_request(fields)
            if chat is not None:
                return await self._recorded(request, body, fields, chat)
            self._unrecorded(request)
            return await self._plain(request, body)
        if request.method == "POST":
            self._unrecorded(request)
        return await self._plain(request, request.content if request.can_read_body else None)

    def _unrecorded(self, request: web.Request) -> None:
        self._conversations.passes(request.path)
        self._on_update(None)

    async def mark(self, request: web.Request) -> web.Response:
        """`{"conversation": id or name, "passed": true, false or null}`: mark rollouts, and end them."""
        record = object_of((await beginning(request, 2**16))[0])
        who, passed = record.get("conversation"), record.get("passed")
        if not isinstance(who, str) or "passed" not in record or not (passed is None or isinstance(passed, bool)):
            return _error(400, 'send {"conversation": "ID or NAME", "passed": true}')
        conversations = self._conversations.named(who)
        if not conversations:
            known = ", ".join(conversation.id for conversation in self._conversations.open) or "none"
            return _error(404, f"no open rollout {who!r}; open: {known}")
        if any(conversation.busy for conversation in conversations):
            return _error(409, f"{who!r} still waits for a reply; mark it when that has come")
        with _Guard(self._on_update):
            for conversation in conversations:
                conversation.mark(passed)
            self._conversations.end(conversations, "stopped")
        self._on_update(None)
        return web.json_response({"marked": [conversation.id for conversation in conversations], "passed": passed})

    async def conversations(self, request: web.Request) -> web.Response:
        """The open rollouts."""
        rows = [
            {"conversation": one.id, "name": one.name, "turns": one.steps, "passed": one.passed, "busy": one.busy}
            for one in self._conversations.open
        ]
        return web.json_response({"conversations": rows})

    async def _plain(self, request: web.Request, data: Any) -> web.StreamResponse:
        response = None
        length = request.headers.get("Content-Length")
        try:
            async with self._send(request, data, {"Content-Length": length} if length else {}) as upstream:
                response = _response(upstream)
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (ClientError, TimeoutError) as error:
            return _broken(request, response, error)

    def _send(self, request: web.Request, data: Any, more: Mapping[str, str]) -> Any:
        path = request.raw_path if request.raw_path.startswith("/") else "/" + request.raw_path
        versioned = path == "/v1" or path.startswith(("/v1/", "/v1?"))
        url = self._base + path[3:] if versioned else self._origin + path
        dropped = _HOP_BY_HOP | {name.lower() for name in more} | _hop_by_hop(request.headers)
        headers = [
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in dropped and not name.lower().startswith(OWN.lower())
        ]
        target = URL(url, encoded=True)
        return self._session.request(
            request.method, target, data=data, headers=[*headers, *more.items()], allow_redirects=False
        )

    async def _recorded(
        self, request: web.Request, body: bytes, fields: dict[str, Any], chat: ChatRequest
    ) -> web.StreamResponse:
        name = request.headers.get(OWN + "Rollout")
        secrets = secrets_of(request.headers, str(request.url), fields)
        exchange = _Exchange(self._conversations, chat, self._on_update)
        with exchange.guarded():
            exchange.conversation = self._conversations.take(chat, name, secrets)
            exchange.mark(request.headers.get(OWN + "Passed"))
        try:
            # Asked for without compression, so that what is recorded can be read.
            async with self._send(request, body, {"Accept-Encoding": "identity"}) as upstream:
                return await exchange.pass_on(request, upstream)
        except (ClientError, TimeoutError) as error:
            exchange.fail(f"the connection broke: {type(error).__name__}")
            return _broken(request, exchange.response, error)
        finally:
            exchange.fail("the agent hung up, or the recorder stopped, before the reply had come")


class _Exchange:
    """One request and its reply on their way through; settled once, by a reply or by a failure."""

    def __init__(self, conversations: Conversations, chat: ChatRequest, on_update: OnUpdate) -> None:
        self._conversations, self._request, self._on_update = conversations, chat, on_update
        self._began, self._settled = time.monotonic(), False
        self.conversation: Conversation | None = None
        self.response: web.StreamResponse | None = None

    def guarded(self) -> _Guard:
        """Recording must never stop the agent's traffic: a failure of ours is shown, and the bytes go on."""
        return _Guard(self._on_update)

    def mark(self, value: str | None) -> None:
        if self.conversation and value is not None and value.lower() in ("true", "false"):
            self.conversation.mark(value.lower() == "true")

    async def pass_on(self, request: web.Request, upstream: ClientResponse) -> web.StreamResponse:
        """Hand the reply to the agent chunk by chunk as it comes, and record it before its end."""
        self.response = response = _response(upstream)
        if self.conversation:
            response.headers[OWN + "Conversation"] = self.conversation.id
        await response.prepare(request)
        length = upstream.content_length
        body = bytearray()
        async for chunk in upstream.content.iter_any():
            tail = max(0, len(body) - 16)
            body += chunk if len(body) <= MAX_BODY else b""
            if _DONE.search(body, tail) or len(body) == length:
                self.settle(upstream, bytes(body))
            await response.write(chunk)
        self.settle(upstream, bytes(body))
        await response.write_eof()
        return response

    def settle(self, upstream: ClientResponse, body: bytes) -> None:
        """Record the reply that a body holds."""
        if self._settled:
            return None
        try:
            plain = decoded(body, upstream.headers.get("Content-Encoding", ""))
            if upstream.status != 200:
                text = " ".join(plain.decode(errors="replace")[:_READ].split())
                return self.fail(f"the upstream answered {upstream.status}: {text}")
            reply = read_stream(plain) if is_stream(plain) else read_reply(object_of(plain))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            return self.fail(f"the reply cannot be read: {error}")
        return self._done(reply)

    def fail(self, cause: str) -> None:
        """Record that no reply came; nothing where one did."""
        if self._settled:
            return
        self._settled = True
        self._conversations.failed_replies += 1
        if self.conversation:
            with self.guarded():
                self.conversation.fail(self._request, cause, self._seconds())
            self.conversation.busy = False
        self._on_update(None)

    def _done(self, reply: Reply) -> None:
        self._settled = True
        if self.conversation:
            with self.guarded():
                self.conversation.exchange(self._request, reply, self._seconds())
            self.conversation.busy = False
        self._on_update(None)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 4)


class _Guard:
    """Turns a failure of ours inside the block into a line for the user."""

    def __init__(self, on_update: OnUpdate) -> None:
        self._on_update, self._boundary = on_update, boundary("record")

    def __enter__(self) -> None:
        self._boundary.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        try:
            if isinstance(error, RepoAgentError):
                raise error
            return bool(self._boundary.__exit__(kind, error, trace))
        except RepoAgentError as failure:
            self._on_update(f"not recorded: {failure}")
            return True


def _hop_by_hop(headers: Any) -> set[str]:
    """The headers that `Connection` names: they are for the next hop alone, and stay here."""
    return {name.strip().lower() for line in headers.getall("Connection", []) for name in line.split(",")}


def _fields(body: bytes, encoding: str) -> dict[str, Any]:
    """The object of a request's body; an empty one where it cannot be read."""
    try:
        return object_of(decoded(body, encoding))
    except ValueError:
        return {}


def _response(upstream: ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    for name, value in upstream.headers.items():
        if name.lower() not in _HOP_BY_HOP | _hop_by_hop(upstream.headers):
            response.headers.add(name, value)
    if "Content-Length" in upstream.headers:
        response.content_length = int(upstream.headers["Content-Length"])
    return response


def _broken(request: web.Request, begun: web.StreamResponse | None, error: Exception) -> web.StreamResponse:
    """Pass a broken connection on: as a 502 where nothing was sent yet, else by breaking off too."""
    if begun is not None and begun.prepared:
        if request.transport:
            request.transport.abort()
        return begun
    return _error(502, f"cannot reach the upstream: {type(error).__name__}: {error}")


def _not_for_pages(header: str) -> web.Response:
    return _error(403, f"programs of this machine alone may use this address; {header} names another place")


def _error(status: int, message: str) -> web.Response:
    body = {"error": {"message": f"repo-agent record: {message}", "type": "repo_agent_record"}}
    return web.json_response(body, status=status)
