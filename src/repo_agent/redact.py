"""Keys stay out of what is written: those that are known, wherever they turn up again, and what looks like one."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection, Iterator
from functools import cache, lru_cache
from typing import Any
from urllib.parse import quote

from repo_agent.secrets import findings

MARK = "[key]"
PLACEHOLDERS = frozenset(
    "none empty null dummy fake ollama local not-needed no-key-required lm-studio password".split()
)
_SHORTEST = 8
_NAMED = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_(?!FILE|PATH|DIR))", re.I)


def is_key(word: str) -> bool:
    """Whether a credential is long and odd enough to be looked for: a plain word would blot out ordinary text."""
    return len(word) >= 2 * _SHORTEST or (not word.isalpha() and is_no_placeholder(word))


def is_no_placeholder(word: str) -> bool:
    """Whether a user's own key is one: not what servers without keys are given."""
    return len(word) >= _SHORTEST and word.lower().removeprefix("sk-") not in PLACEHOLDERS


def redacted(value: Any, secrets: Collection[str], shaped: bool = True) -> Any:
    """`value` with each of the secrets, as they are and as URLs and JSON write them, replaced by a mark; with `shaped`
    whatever looks like a credential too. Texts, lists and dicts, their keys among them; anything else stays."""
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            for form in _forms(secret):
                value = value.replace(form, MARK)
        for found in reversed(findings(value) if shaped else ()):
            value = value[: found.start] + MARK + value[found.end :]
        return value
    if isinstance(value, dict):
        return {redacted(key, secrets, shaped): redacted(entry, secrets, shaped) for key, entry in value.items()}
    return [redacted(entry, secrets, shaped) for entry in value] if isinstance(value, list) else value


def occur_in(line: bytes, secrets: Collection[str]) -> bool:
    """Whether a line of JSON holds one of the secrets, in any of the forms that `redacted` looks for."""
    return any(form in line for secret in secrets for form in _escaped_forms(secret))


@cache
def own() -> frozenset[str]:
    """The credentials that this process was started with: values of environment variables that are named like one."""
    named = (value for name, value in os.environ.items() if _NAMED.search(name))
    return frozenset(filter(is_key, named))


@lru_cache(256)
def _escaped_forms(secret: str) -> tuple[bytes, ...]:
    forms = (json.dumps(form, ensure_ascii=False)[1:-1] for form in _forms(secret))
    return tuple({form.encode(errors="surrogatepass"): None for form in (*_forms(secret), *forms)})


@lru_cache(256)
def _forms(secret: str) -> dict[str, None]:
    escaped = json.dumps(secret)[1:-1]
    quoted = quote(secret, safe="")
    small = re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    plain = (secret, quoted, small, quote(secret), escaped, escaped.replace("/", "\\/"))
    return dict.fromkeys((*plain, *_in_base64(secret)))


def _in_base64(secret: str) -> Iterator[str]:
    """What a secret looks like inside of text in base64, wherever in it: the digits that are its own alone."""
    data = secret.encode(errors="surrogatepass")
    for shift in range(3):
        own = slice((shift * 8 + 5) // 6, (shift + len(data)) * 8 // 6)
        digits = base64.b64encode(b"\0" * shift + data).decode()[own]
        yield from (digits, digits.replace("+", "-").replace("/", "_"))
