"""From the name of a model on the command line to the model."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from repo_agent.errors import UserError
from repo_agent.models import Model

FORMS = "local:NAME-OR-PATH[+ADAPTER], openai:NAME[@BASE_URL], together:NAME, or oracle"
PRESETS = {"openai": "https://api.openai.com/v1", "together": "https://api.together.xyz/v1"}
"""Kind of a model's spec → its server, where the spec names none."""


_HOST = re.compile(r".*(\?|@|/v1\b|:\d{2,5}(/|$))|localhost\b|\d+\.\d+\.\d+\.\d+")
"""What a server's address has, and no model's name."""


def parts(spec: str) -> tuple[str, str, str]:
    """A spec's kind, name and adapter folder ("" without one): `local:tiny+adapters/a` is local, tiny, adapters/a.

    A + may also belong to a path: the whole is a base where a folder of that name is, else what follows the + is an
    adapter where such a folder is, else it follows the last +.
    """
    kind, _, rest = spec.partition(":")
    if kind != "local":
        return kind, rest.partition("@")[0], ""
    cuts = [place for place, character in enumerate(rest) if character == "+"]
    if not cuts or _is_folder(rest):
        return kind, rest, ""
    cut = next((place for place in reversed(cuts) if _is_folder(rest[place + 1 :])), cuts[-1])
    return kind, rest[:cut], rest[cut + 1 :]


def _is_folder(path: str) -> bool:
    return bool(path) and Path(path).expanduser().is_dir()


def open_model(spec: str) -> Model:
    """The model that `spec` names: `local:BASE[+ADAPTER]`, `openai:NAME[@BASE_URL]` or `together:NAME`.

    Raises UserError for any other form, and where the base, the adapter or the key is not there.
    """
    kind, base, adapter = parts(spec)
    if kind == "local" and base:
        from repo_agent.models.local import LocalModel

        return LocalModel(base, Path(adapter).expanduser() if adapter else None, name=spec)
    tail = spec.partition("@")[2]
    if kind in PRESETS and base and "@" in spec and "://" not in spec and _HOST.match(tail):
        raise UserError("what follows @ is a server without http://", f"{kind}:{base}", "Write http:// or https://")
    if kind in PRESETS and "://" not in spec and base:
        return _served(spec.partition(":")[2], PRESETS[kind])
    found = re.fullmatch(r"openai:(.+)@(https?://.+)", spec)
    if found:
        address = urlsplit(found[2])
        if "@" in address.netloc or address.query or address.fragment:
            remedy = "Put the key into the environment: OPENAI_API_KEY"
            raise UserError("a base URL holds no user, password or query", "--model", remedy)
        return _served(found[1], found[2])
    if spec == "oracle":
        raise UserError("the oracle is no language model", "--model oracle", f"Give {FORMS.rpartition(', or ')[0]}")
    shown = re.split("@|://", spec)[0] if "://" in spec else spec  # a URL may hold a key
    raise UserError("no such model", shown, f"Give {FORMS}; for example local:tiny")


def _served(name: str, base_url: str) -> Model:
    from repo_agent.models.openai_chat import OpenAIChat

    return OpenAIChat(name, base_url)
