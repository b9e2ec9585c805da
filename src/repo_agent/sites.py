"""Who may speak to a server of ours on loopback: programs of this machine, and no web page; and how much at once.

A page can send requests to any port of this machine, some without asking first, and by a name of its own that leads
here (DNS rebinding) it can read the answers. A browser says in `Host`, `Origin` and `Sec-Fetch-Site` where a request
comes from; the clients of agents send a Host of this machine and nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from multidict import CIMultiDictProxy

_HERE = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_OWN_SITE = frozenset({"same-origin", "none"})
"""What a browser says of a page of the server itself, of which there is none, and of an address that was typed."""

PATIENCE = 60.0
"""Seconds without a byte after which a request's body is no longer waited for."""


async def beginning(request: web.Request, most: int) -> tuple[bytes, bool]:
    """A request's body, and whether that is all of it: no more is read than `most` bytes and one piece.

    Raises web.HTTPRequestTimeout for a client that says nothing for PATIENCE.
    """
    body = bytearray()
    while len(body) <= most:
        try:
            piece = await asyncio.wait_for(request.content.readany(), PATIENCE)
        except TimeoutError:
            raise web.HTTPRequestTimeout(text=f"nothing of the body came for {PATIENCE:g} s") from None
        if not piece:
            return bytes(body), True
        body += piece
    return bytes(body), False


async def joined(read: bytes, request: web.Request) -> AsyncIterator[bytes]:
    """What was read of a body, and the rest as it comes."""
    yield read
    async for piece in request.content.iter_any():
        yield piece


def stranger(headers: CIMultiDictProxy[str]) -> str | None:
    """The header that gives away a request by a web page or to another name, or None."""
    hosts = headers.getall("Host", [])
    if len(hosts) != 1 or not _HERE.fullmatch(hosts[0]):
        return "Host"
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in headers.getall("Origin", [])):
        return "Origin"
    if any(site.lower() not in _OWN_SITE for site in headers.getall("Sec-Fetch-Site", [])):
        return "Sec-Fetch-Site"
    return None


def guard(refuse: Callable[[str], web.Response]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that answers every stranger, whatever the path, by `refuse(header)`."""

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        header = stranger(request.headers)
        return refuse(header) if header else await handler(request)

    return check
