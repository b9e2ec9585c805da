"""The workspace's contained paths: no absolute path, no `..`, no way out through a link."""

from __future__ import annotations

import contextlib
from pathlib import Path

from repo_agent.tools.registry import ToolError
from repo_agent.tools.schema import lexical_fault


def resolve(root: Path, rel: str) -> Path:
    """The absolute path of `rel` inside `root`.

    Raises ToolError("path_escape") for a path that leaves the workspace, through a link too.
    """
    fault = lexical_fault(rel)
    if fault:
        raise ToolError("path_escape", fault)
    base = root.resolve()
    try:
        target = (base / rel).resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise ToolError("bad_path", f"cannot use the path {rel[:80]}") from error
    if target != base and base not in target.parents:
        raise ToolError("path_escape", f"{rel} leaves the workspace")
    return target
