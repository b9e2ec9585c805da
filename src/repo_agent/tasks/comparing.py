"""Which classes of a program compare or calculate by methods of their own: the grader trusts no other class's `==`."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache

from repo_agent.sandbox.child.origin import METHODS

MAKERS = frozenset({"dataclass", "attrs", "attr", "define", "frozen", "mutable", "total_ordering"})
"""Decorators that write such methods."""
_HINT = re.compile("|".join([*METHODS, *MAKERS]))


def comparing_classes(files: Iterable[tuple[str, str | bytes]]) -> frozenset[str]:
    """`path::Class` of the classes in these files, given by path and content, that define, or whose decorator makes,
    such a method. A file that is no Python has none."""
    texts = ((path, content) for path, content in files if isinstance(content, str) and _HINT.search(content))
    return frozenset(f"{path}::{name}" for path, text in texts for name in _classes(text))


@lru_cache(maxsize=4096)  # tasks over one repository share most of their files
def _classes(text: str) -> frozenset[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return frozenset(node.name for node in classes if METHODS & set(_names(node)) or MAKERS & set(_decorators(node)))


def _names(node: ast.ClassDef) -> Iterator[str]:
    """What the body of a class binds: methods and plain assignments."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _decorators(node: ast.ClassDef) -> Iterator[str]:
    """Every name in the decorators: `dataclasses.dataclass(order=True)` has dataclass."""
    for decorator in node.decorator_list:
        for part in ast.walk(decorator):
            if isinstance(part, ast.Name):
                yield part.id
            elif isinstance(part, ast.Attribute):
                yield part.attr
