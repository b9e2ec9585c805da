"""The house rules that a machine can keep: who imports whom, sizes, and what a bare import loads."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "repo_agent"
FREE = {"errors", "escape", "messages", "redact", "files", "secrets", "sites", "keys"}
"""Every package may import these, and they import nothing of ours."""
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "escape": set(),
    "messages": set(),
    "redact": {"secrets"},
    "files": set(),
    "keys": set(),
    "sites": set(),
    "secrets": set(),
    "tools": set(),
    "sandbox": set(),
    "traces": set(),
    "protocols": {"tools"},
    "chat": {"tools"},
    "models": {"chat", "protocols"},
    "tasks": {"sandbox"},
    "agent": {"tools", "protocols", "models", "traces"},
    "probes": {"traces"},
    "rollout": {"agent", "chat", "tools", "protocols", "models", "tasks", "sandbox", "traces", "train", "probes"},
    "data": {"traces", "tools", "protocols", "chat"},
    "train": {"data", "chat"},
    "evaluate": {"models", "probes", "protocols", "tools", "traces"},
    "report": {"evaluate", "probes", "tools", "traces"},
    "record": {"tools", "protocols", "traces"},
    "flywheel": {"evaluate", "models", "report", "traces"},
}
HEAVY = set("torch transformers peft trl ray together datasets matplotlib scipy statsmodels openai".split())


def files() -> list[Path]:
    return [path for path in sorted(SRC.rglob("*.py")) if "bundled_tasks" not in path.parts]


def package(path: Path) -> str:
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every imported module's dotted name, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", node


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SRC)))
def test_a_package_imports_only_what_the_table_allows(path: Path) -> None:
    here = package(path)
    if here in {"cli", "demo", "__init__"}:
        return
    ours = {name.split(".")[1] for name, _ in imports(path) if name.startswith("repo_agent.")}
    assert ours - FREE - {here} <= MAY_IMPORT[here]


def test_no_two_packages_import_each_other() -> None:
    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for name in MAY_IMPORT.get(waiting.pop(), set()) - found:
                found.add(name)
                waiting.append(name)
        return found

    assert [name for name in MAY_IMPORT if name in reachable(name)] == []


def test_no_file_leads_back_to_itself() -> None:
    """Also inside a package, and also by an import inside of a function."""
    names = {".".join(("repo_agent", *path.relative_to(SRC).with_suffix("").parts)): path for path in files()}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    leads: dict[str, set[str]] = {}
    for name, path in names.items():
        from_imports = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        leads[name] = {other for other in (*dict(imports(path)), *from_imports) if other in names} - {name}
    order = graphlib.TopologicalSorter(leads)
    order.prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SRC)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and package(path) != "cli":
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SRC)))
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    assert [name for name, node in imports(path) if id(node) in top and name.split(".")[0] in HEAVY] == []


@pytest.mark.parametrize("code", ["import repo_agent", "from repo_agent.cli import app; app(['--help'])"])
def test_help_loads_nothing_heavy(code: str) -> None:
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint('\\nLOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rsplit("LOADED", 1)[1].split())
    assert loaded & (HEAVY | {"pydantic", "rich", "jsonschema", "pytest", "numpy", "aiohttp"}) == set()


def test_the_table_names_every_package() -> None:
    assert {package(path) for path in files()} - {"cli", "demo", "__init__"} == set(MAY_IMPORT)
