"""Stand-in until the rules arrive."""

from __future__ import annotations

from typing import NamedTuple

from repo_agent.redact import SHAPED


class Finding(NamedTuple):
    kind: str
    start: int
    end: int


def findings(text: str) -> list[Finding]:
    return [Finding("key", found.start(), found.end()) for found in SHAPED.finditer(text)]
