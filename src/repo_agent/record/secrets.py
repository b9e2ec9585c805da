"""Keys stay out of traces: those that a request carries, wherever they turn up again, and what is shaped like one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

MARK = "[key]"
_HEADER = re.compile(r"authorization|cookie|(^|-)(key|token|secret)$", re.IGNORECASE)
_NAME = re.compile(r"(^|[-_])(key|token|secret|password|authorization|sig|signature)$|^apikey$", re.IGNORECASE)
_SHAPED = re.compile(r"\b(?:sk-|hf_|tgp_|gh[pousr]_|AKIA|xox[bp]-|AIza)[A-Za-z0-9_-]{16,}")
_SHORTEST = 8


def secrets_of(headers: Mapping[str, str], url: str, body: Mapping[str, Any]) -> frozenset[str]:
    """Every key that a request carries: in headers, in its URL, in top-level fields of its body.

    Words too short or too plain to be one (`none`, `EMPTY`) are left alone: they would blot out ordinary text.
    """
    parts = urlsplit(url)
    found = [value.split()[-1] for name, value in headers.items() if _HEADER.search(name) and value.strip()]
    found += [value for name, value in parse_qsl(parts.query) if _NAME.search(name)]
    found += [unquote(word) for word in (parts.username, parts.password) if word]
    found += [value for name, value in body.items() if _NAME.search(name) and isinstance(value, str)]
    return frozenset(word for word in found if _may_be_key(word))


def bare(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def without(value: Any, secrets: Iterable[str]) -> Any:
    """`value` with each of the secrets, and whatever is shaped like a key, replaced by a mark."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MARK)
        return _SHAPED.sub(MARK, value)
    if isinstance(value, dict):
        return {key: without(entry, secrets) for key, entry in value.items()}
    return [without(entry, secrets) for entry in value] if isinstance(value, list) else value


def _may_be_key(word: str) -> bool:
    return len(word) >= 2 * _SHORTEST or (len(word) >= _SHORTEST and any(letter.isdigit() for letter in word))
