"""From the name of a model on the command line to the model."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from repo_agent.errors import UserError
from repo_agent.models import Model

FORMS = "local:NAME-OR-PATH[+ADAPTER], openai:NAME@BASE_URL, or oracle"


def parts(spec: str) -> tuple[str, str, str]:
    """A spec's kind, name and adapter folder ("" without one): `local:tiny+adapters/a` is local, tiny, adapters/a."""
    kind, _, rest = spec.partition(":")
    if kind == "local":
        base, plus, adapter = rest.rpartition("+")
        return (kind, base, adapter) if plus else (kind, rest, "")
    return kind, rest.partition("@")[0], ""


def open_model(spec: str) -> Model:
    """The model that `spec` names: `local:BASE[+ADAPTER]` or `openai:NAME@BASE_URL`.

    Raises UserError for any other form, and where the base, the adapter or the key is not there.
    """
    kind, base, adapter = parts(spec)
    if kind == "local" and base:
        from repo_agent.models.local import LocalModel

        return LocalModel(base, Path(adapter).expanduser() if adapter else None, name=spec)
    found = re.fullmatch(r"openai:(.+)@(https?://.+)", spec)
    if found:
        address = urlsplit(found[2])
        if address.username or address.password or address.query:
            remedy = "Put the key into the environment: OPENAI_API_KEY"
            raise UserError("a base URL holds no user, password or query", "--model", remedy)
        from repo_agent.models.openai_chat import OpenAIChat

        return OpenAIChat(found[1], found[2])
    raise UserError("no such model", spec, f"Give {FORMS}; for example local:tiny")
