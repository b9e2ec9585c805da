"""The tool schemas of recorded runs, as one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import key_of
from repo_agent.tools.spec import foreign_spec
from repo_agent.traces.read import iter_traces


def write_schemas(runs: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write every tool of these runs to `out`, each once, in the order in which they come. Returns what was written.

    Raises UserError where a tool has two schemas, where no run says which tools there are, and for an `out` that is
    there.
    """
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"no folder {out.parent}", str(out), "Make it first")
    found: dict[str, dict[str, Any]] = {}
    places: dict[str, Path] = {}
    problems: list[str] = []
    for path, trace, more in iter_traces(runs):
        problems += more
        for entry in trace.tools if trace and trace.tools else []:
            name = foreign_spec(entry).name
            if name in found and key_of(found[name]) != key_of(entry):
                what = f"{name} has another schema than in {places[name]}"
                raise UserError(what, str(path), "Give runs of one set of tools at a time")
            found[name] = entry
            places.setdefault(name, path)
    if not found:
        remedy = "Record the agent while it sends `tools`, or write the list by hand"
        raise UserError("no trace says which tools there are", str(runs[0]), remedy)
    out.write_text(json.dumps(list(found.values()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"tools": list(found), "written": str(out), "problems": problems}
