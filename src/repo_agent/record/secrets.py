"""The keys that a request carries, so that its trace holds none of them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from repo_agent.redact import is_key

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAMES = frozenset(
    "auth authorization key apikey token secret password passwd pwd credential credentials sig signature pat jwt "
    "bearer cookie".split()
)
"""Words of a name that says: what follows is a credential."""
_HEADERS = _NAMES | {"session", "sessionid", "cookie2", "csrf", "xsrf"}
_PLAIN = frozenset({"idempotency-key", "prompt_cache_key"})
"""Names that only sound like one."""
_TEXTS = frozenset({"messages", "tools", "functions", "input", "prompt", "response_format"})
"""Fields of a body that hold what is said, not who says it."""


def secrets_of(headers: Mapping[str, str], url: str, body: Mapping[str, Any]) -> frozenset[str]:
    """Every key that a request carries: in headers, in its URL, in fields of its body beside what is said.

    Words too short or too plain to be one (`none`, `EMPTY`) are left alone: they would blot out ordinary text.
    """
    parts = urlsplit(url)
    found = [word for name, value in headers.items() if _says(name, _HEADERS) for word in _words(value)]
    found += [value for name, value in parse_qsl(parts.query) if _says(name, _HEADERS) or name == "code"]
    found += [unquote(word) for word in (parts.username, parts.password) if word]
    found += _fields({name: value for name, value in body.items() if name not in _TEXTS})
    return frozenset(filter(is_key, found))


def _says(name: str, names: frozenset[str]) -> bool:
    """Whether a name has such a word in it, however its words are joined: X-Api-Key, accessToken, AWSAccessKeyId."""
    return name.lower() not in _PLAIN and not names.isdisjoint(word.lower() for word in _WORDS.findall(name))


def _words(value: str) -> Iterator[str]:
    """The credential of a header: its last word, the values of cookies, and what Basic hides."""
    *scheme, last = value.split() or [""]
    yield last
    yield last.partition("=")[2].strip('"')
    for cookie in value.split(";"):
        yield cookie.partition("=")[2].strip()
    if [word.lower() for word in scheme] == ["basic"]:
        try:
            user, _, password = base64.b64decode(last, validate=True).decode().partition(":")
        except ValueError:
            return
        yield password or user


def _fields(body: Any) -> Iterator[str]:
    if isinstance(body, dict):
        for name, value in body.items():
            if isinstance(value, str) and (_says(name, _NAMES) or name == "code"):
                yield value
            yield from _fields(value)
    if isinstance(body, list):
        for value in body:
            yield from _fields(value)


def bare(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))
