"""What a model should still do after it was trained for tool calls: answer without one, chat, read ordinary text.

The prompts and texts are our own writing. Here are they, their checks, and the file that holds a model's answers;
`rollout.probes` asks them, `evaluate.forgetting` compares two files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from repo_agent.messages import digest

WITH_TOOLS, PLAIN, CHAT, TEXT = "no_call_tools", "no_call_plain", "chat", "text"
"""Groups of probes: prompts that ask for no call, with the agent's tools at hand and without; plain chat; texts."""


@dataclass(frozen=True)
class Probe:
    """A prompt to be answered, or a text to be read, in one of the groups."""

    group: str
    id: str
    text: str
    checks: Mapping[str, Any]
    """Of a chat: what its answer has to be; see `checks`."""


@cache
def all_probes() -> tuple[Probe, ...]:
    """Every probe, those of a group together. A prompt of `no_call` is in two groups."""
    found = _read("prompts.toml") | _read("texts.toml")
    groups = {WITH_TOOLS: "no_call", PLAIN: "no_call", CHAT: "chat", TEXT: "text"}
    return tuple(_probe(group, entry) for group, name in groups.items() for entry in found[name])


@cache
def set_hash() -> str:
    """16 hex digits that change with any prompt, check or text: only answers to the same ones are compared."""
    return digest([[one.group, one.id, one.text, dict(one.checks)] for one in all_probes()])


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _probe(group: str, entry: dict[str, Any]) -> Probe:
    checks = {key: value for key, value in entry.items() if key not in ("id", "text")}
    return Probe(group, entry["id"], entry["text"].strip(), checks)
