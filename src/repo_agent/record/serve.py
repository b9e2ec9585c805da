"""`repo-agent record`: the proxy on loopback, from its start to a signal; then every open rollout is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from repo_agent.errors import UserError, boundary
from repo_agent.messages import digest
from repo_agent.record.conversations import Conversations, TaskFrom
from repo_agent.record.secrets import bare
from repo_agent.tools.own import load_tools
from repo_agent.tools.registry import Registry
from repo_agent.traces.recover import finish_abandoned
from repo_agent.traces.store import RunDir

HOST = "127.0.0.1"


@dataclass(frozen=True)
class RecordOptions:
    """The command's own words."""

    upstream: str
    out: Path
    port: int
    tools: Path | None
    task_from: str
    adapter: Mapping[str, Any] | None = None
    """What run.json says of the adapter that the upstream runs."""


OnStart = Callable[[str, int], None]
"""The base URL for the agent, and how many rollouts of a killed recorder were finished."""
OnUpdate = Callable[[str, str | None], None]
"""The figures so far in one line, and a warning where there is one."""


def record(options: RecordOptions, on_start: OnStart, on_update: OnUpdate) -> dict[str, Any]:
    """Record until SIGINT or SIGTERM; returns the counts.

    Raises UserError for bad options, a port in use, or a missing aiohttp.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise UserError("needs aiohttp", "record", "pip install 'repo-agent[record]'") from error
    return asyncio.run(_until_signal(options, on_start, on_update))


async def serve(
    options: RecordOptions, on_start: OnStart, on_update: OnUpdate, until: Callable[[], Awaitable[Any]]
) -> dict[str, Any]:
    """Record until `until` returns; see `record`."""
    registry, task_from = _checked(options)
    listening = _listen(options.port)
    with contextlib.closing(listening), _private():
        run = RunDir.open(options.out, _run_record(options, registry))
        run.path.chmod(0o700)
        finished = finish_abandoned(run)
        conversations = Conversations(run, tools=registry, task_from=task_from)
        async with _running(options.upstream, conversations, listening, on_update):
            on_start(f"http://{HOST}:{listening.getsockname()[1]}/v1", len(finished))
            await until()
        with boundary("record"):
            conversations.end(list(conversations.open), "stopped")
    return {
        "rollouts": conversations.rollouts,
        "passed": conversations.passed,
        "errors": conversations.errors,
        "failed_replies": conversations.failed_replies,
        "unrecorded": dict(conversations.unrecorded),
        "turns": conversations.tally.counts(),
        "recovered": len(finished),
        "line": conversations.line(),
    }


@contextlib.asynccontextmanager
async def _running(
    upstream: str, conversations: Conversations, listening: socket.socket, on_update: OnUpdate
) -> AsyncIterator[None]:
    """The proxy, up on a bound socket; at the end it gives replies under way a second."""
    from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

    from repo_agent.record.proxy import Proxy

    plain = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
    timeout = ClientTimeout(total=None, sock_connect=30)
    connector = TCPConnector(limit=0)
    async with ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=plain
    ) as session:
        proxy = Proxy(upstream, conversations, session, lambda warning: on_update(conversations.line(), warning))
        # Bodies stay as they come: the server would unpack a compressed one without a limit.
        runner = web.AppRunner(
            proxy.app(), access_log=None, handle_signals=False, shutdown_timeout=1, auto_decompress=False
        )
        await runner.setup()
        await web.SockSite(runner, listening).start()
        try:
            yield
        finally:
            await runner.cleanup()


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """What this process writes meanwhile is its user's alone: conversations hold whatever an agent reads."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _checked(options: RecordOptions) -> tuple[Registry | None, TaskFrom]:
    parts = urlsplit(options.upstream)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("no http(s) URL", f"--upstream {bare(options.upstream)}", "Give https://HOST/v1")
    if parts.query or parts.fragment or "@" in parts.netloc:
        remedy = "Give the plain base URL; what the agent sends, keys and queries too, is passed on"
        raise UserError("holds a user, a query or a fragment", f"--upstream {bare(options.upstream)}", remedy)
    return load_tools(str(options.tools)) if options.tools else None, TaskFrom(options.task_from)


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(f"cannot listen on {HOST}:{port} ({error})", "--port", "Give another, or 0 for any") from error
    return listening


def _run_record(options: RecordOptions, registry: Registry | None) -> dict[str, Any]:
    """run.json: no key in it, and no split, since nobody says which tasks are held out."""
    return {
        "kind": "record",
        "upstream": bare(options.upstream),
        "tools": digest(registry.schemas()) if registry else None,
        "task_from": options.task_from,
        **(options.adapter or {}),
        "versions": {"repo-agent": version("repo-agent"), "aiohttp": version("aiohttp")},
    }


async def _until_signal(options: RecordOptions, on_start: OnStart, on_update: OnUpdate) -> dict[str, Any]:
    """A signal counts from the start on: one that comes before the agent's URL is printed ends it right after."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await serve(options, on_start, on_update, stop.wait)
