"""What a Python source holds: its tree, the statements that run as it loads, the names that it binds."""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from types import CodeType


def text_of(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode(errors="replace")


def tree_of(path: str) -> ast.Module:
    """What a file holds; nothing where it is no Python."""
    try:
        return ast.parse(text_of(path))
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements of a module that run as it loads, those in `if`, `try` and `with` too."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.expr):
            yield node
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from top_level(node)


def bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id


def modules_of(tree: ast.AST) -> Iterator[str]:
    """Names that import statements may load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rebound(tree: ast.AST) -> Iterator[str]:
    """Names of a module that its functions, or other modules, may give another value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield node.attr


def stored(code: CodeType, outer: bool = True) -> Iterator[str]:
    """Names that a module's code binds in the module."""
    operations = ("STORE_NAME", "STORE_GLOBAL") if outer else ("STORE_GLOBAL",)
    yield from (part.argval for part in dis.get_instructions(code) if part.opname in operations)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from stored(constant, outer=False)


def binds_unseen(node: ast.AST) -> bool:
    """Whether names come by it that the source does not say: `from m import *`, `exec(…)`, `globals()`."""
    if isinstance(node, ast.ImportFrom):
        return node.names[0].name == "*"
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exec", "globals")
