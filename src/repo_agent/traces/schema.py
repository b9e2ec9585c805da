"""The JSON Schema of a trace's lines, made from the typed events.

python -m repo_agent.traces.schema > docs/trace.schema.json
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from repo_agent.traces.events import KINDS, AnyEvent


def schema() -> dict[str, Any]:
    """The schema that every line of a trace of format 2 meets."""
    made = msgspec.json.schema(AnyEvent)
    for kind in KINDS.values():
        record = made["$defs"][kind.__name__]
        record["required"] = sorted({*record.get("required", ()), "kind", "ts"})
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of a repo-agent trace, format 2",
    }
    return {**head, **made}


def text() -> str:
    """The schema as docs/trace.schema.json holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
