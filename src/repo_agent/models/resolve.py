"""From the name of a model on the command line to the model."""

from __future__ import annotations

import re
from pathlib import Path

from repo_agent.errors import UserError
from repo_agent.models import Model

FORMS = "local:NAME-OR-PATH[+ADAPTER], openai:NAME@BASE_URL, or oracle"


def open_model(spec: str) -> Model:
    """The model that `spec` names: `local:BASE[+ADAPTER]` or `openai:NAME@BASE_URL`.

    Raises UserError for any other form, and where the base, the adapter or the key is not there.
    """
    kind, _, rest = spec.partition(":")
    if kind == "local" and rest:
        from repo_agent.models.local import LocalModel

        base, plus, adapter = rest.rpartition("+") if "+" in rest else (rest, "", "")
        return LocalModel(base, Path(adapter).expanduser() if plus else None, name=spec)
    found = re.fullmatch(r"openai:(.+)@(https?://.+)", spec)
    if found:
        from repo_agent.models.openai_chat import OpenAIChat

        return OpenAIChat(found[1], found[2])
    raise UserError("no such model", spec, f"Give {FORMS}; for example local:tiny")
