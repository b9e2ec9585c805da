"""The user's own tools: a Python module of decorated functions, or the schemas alone.

    from repo_agent.tools.registry import ToolError, tool

    @tool
    def read_notes(root: Path, topic: str) -> str: ...

A module's code runs in this process, with this user's rights: docs/own-tools.md.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

from repo_agent.errors import InfraError, UserError, boundary
from repo_agent.tools.registry import Registry, ToolSpec

FORMS = "Give a .py file or a dotted module with @tool functions, or a schema.json"


def load_tools(where: str) -> Registry:
    """The tools of a .py file, of a dotted module, or of a JSON file of schemas (which cannot run).

    A module's list `TOOLS` says which and in which order; without one, all that stand in it, in order. Raises UserError
    where there is nothing to import, where importing fails, and for a module without tools.
    """
    path = Path(where).expanduser()
    if path.suffix == ".json" or (path.is_file() and path.suffix != ".py"):
        return Registry.load(path)
    try:
        with boundary("tools"):
            module = _imported(where)
    except InfraError as error:
        raise UserError(f"cannot be imported ({error.cause})", where, FORMS) from error
    except SystemExit as error:
        raise UserError(
            "ends the process when it is imported", where, 'Put that under `if __name__ == "__main__":`'
        ) from error
    found = vars(module).get("TOOLS", list(vars(module).values()))
    specs = list({id(spec): spec for spec in found if isinstance(spec, ToolSpec)}.values())
    twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
    if not specs:
        raise UserError("holds no @tool function", where, "Decorate one: `from repo_agent.tools.registry import tool`")
    if twice:
        raise UserError(f"has two tools of the name {twice[0]}", where, "Rename one, or list those you mean in TOOLS")
    return Registry(specs)


def check_runnable(registry: Registry, where: str) -> None:
    """Raise UserError for tools that have a schema but no function."""
    lacking = [spec.name for spec in registry.specs.values() if spec.fn is None]
    if lacking:
        remedy = "Give a module with @tool functions; `inventory` and `build` take schemas alone"
        raise UserError(f"{', '.join(lacking)}: a schema without a function cannot run", where, remedy)


def source_hash(where: str) -> str | None:
    """Hash of the module's own file; what it imports is not covered. None where it has no file."""
    module = sys.modules.get(_name(where))
    path = getattr(module, "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else None


def _imported(where: str) -> ModuleType:
    name = _name(where)
    if name == where:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        return importlib.import_module(where)
    path = Path(where).expanduser().resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _name(where: str) -> str:
    """The name under which a module is imported; for a file one that nothing else has."""
    if not where.endswith(".py"):
        return where
    path = str(Path(where).expanduser().resolve())
    return f"repo_agent_tools_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
