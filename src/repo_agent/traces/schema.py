"""The JSON Schema of a trace's lines, made from the typed events.

python -m repo_agent.traces.schema > docs/trace.schema.json
"""

from __future__ import annotations

import json
from typing import Any

from repo_agent.traces.events import ADAPTER


def schema() -> dict[str, Any]:
    """The schema that every line of a trace of format 1 meets."""
    made = ADAPTER.json_schema()
    for record in made["$defs"].values():
        if "kind" in record.get("properties", {}):
            record["required"] = sorted({*record.get("required", ()), "v", "kind", "ts"})
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of a repo-agent trace, format 1",
    }
    return {**head, **made}


def text() -> str:
    """The schema as docs/trace.schema.json holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
