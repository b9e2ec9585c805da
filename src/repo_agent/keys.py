"""The key for a server: from the environment or from a file, never from the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from repo_agent.errors import UserError
from repo_agent.redact import is_no_placeholder, redacted

KEY_FILE = "REPO_AGENT_KEY_FILE"
TOGETHER = "TOGETHER_API_KEY"
_VARIABLES = {"api.together.xyz": TOGETHER, "api.together.ai": TOGETHER}
_DEFAULT = "OPENAI_API_KEY"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def key_for(base_url: str, variable: str | None = None) -> str:
    """The key for a server: the text of the file that REPO_AGENT_KEY_FILE names, else of an environment `variable`, by
    default the server's own.

    A server on this machine needs none. Raises UserError where another has none, or the file holds none.
    """
    host = urlsplit(base_url).hostname or ""
    path = os.environ.get(KEY_FILE)
    variable = variable or _VARIABLES.get(host, _DEFAULT)
    key = _read(Path(path).expanduser()) if path else os.environ.get(variable, "").strip()
    if not key and host not in _LOOPBACK:
        raise UserError("needs a key", base_url, f"Set {variable}, or {KEY_FILE} to a file that holds it")
    return key or "none"


def without_key(value: Any, key: str) -> Any:
    """A server's words or its whole answer without the key, which it may repeat."""
    return redacted(value, (key,), shaped=False) if is_no_placeholder(key) else value


def _read(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"cannot be read ({reason})", f"{KEY_FILE}={path}", "Name a readable file") from None
    if not key or len(key.split()) > 1:
        raise UserError("holds no single key", f"{KEY_FILE}={path}", "Put the key into it, and nothing else")
    return key
