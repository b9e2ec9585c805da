"""Comparisons in a test file that the tested code may not decide.

`assert f(x) == 3` proves nothing where `f` returns an object whose `__eq__` says yes to everything. So pytest, on
rewriting a test file, wraps both sides of each comparison; unittest's assertions are wrapped likewise. Where one side
brings a comparison of its own, the other does not, and the answer is yes, the run is stopped.

A class that the task itself lets compare is believed (`comparing`), and so are the code's own classes among themselves.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator as operators
import os
import sys
from collections.abc import Callable, Collection, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import _pytest.assertion.rewrite

COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
OPERATORS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "__eq__",
    ast.Lt: "__lt__",
    ast.LtE: "__le__",
    ast.Gt: "__gt__",
    ast.GtE: "__ge__",
    ast.In: "in",
}
"""A `!=` between strangers holds by itself, so it proves nothing."""
COMPARE: Mapping[str, Callable[[Any, Any], object]] = {
    "__eq__": operators.eq,
    "__lt__": operators.lt,
    "__le__": operators.le,
    "__gt__": operators.gt,
    "__ge__": operators.ge,
    "in": lambda part, whole: part in whole,
}
ASSERTIONS = {
    "assertEqual": "__eq__",
    "assertAlmostEqual": "__eq__",
    "assertIn": "in",
    "assertLess": "__lt__",
    "assertLessEqual": "__le__",
    "assertGreater": "__gt__",
    "assertGreaterEqual": "__ge__",
}
NAME, LEFT, RIGHT = "@repo_agent", "@left", "@right"
"""No identifiers, so no source can name them."""
PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None), type, range, slice, FunctionType, ModuleType})
CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, dict)
MOST_ELEMENTS, MOST_DEPTH = 100_000, 8
SLOTS = (type(object.__eq__), type(list.__contains__), BuiltinFunctionType)
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
"""What a metaclass cannot change."""


class Comparisons:
    """Watches the comparisons of one run; `fail` does not return."""

    def __init__(
        self, fail: Callable[[str], None], work: str, pristine: Collection[str], comparing: Collection[str]
    ) -> None:
        self._fail, self._work, self._pristine, self._comparing = fail, work, pristine, frozenset(comparing)
        self._foreign: dict[type, bool] = {}
        self._left: list[object] = []
        self._both: tuple[object, object] = (self.left, self.right)

    def install(self) -> None:
        """Let pytest rewrite `a == b` of a test file as `left(a) == right(b, "__eq__")`; see `left` and `right`."""
        original = _pytest.assertion.rewrite.rewrite_asserts
        module = ModuleType(NAME)
        module.left, module.right = self.left, self.right  # type: ignore[attr-defined]
        sys.modules[NAME] = module

        def rewrite_asserts(tree: ast.Module, *args: Any, **kwargs: Any) -> None:
            Operands().visit(tree)
            tree.body[_first_statement(tree) : 0] = [
                ast.ImportFrom(NAME, [ast.alias("left", LEFT), ast.alias("right", RIGHT)], 0)
            ]
            for node in ast.walk(tree):
                if isinstance(node, (ast.expr, ast.stmt)) and not hasattr(node, "lineno"):
                    node.lineno, node.col_offset = 1, 0
            ast.fix_missing_locations(tree)
            original(tree, *args, **kwargs)

        vars(_pytest.assertion.rewrite)["rewrite_asserts"] = rewrite_asserts

    def wrap_assertions(self, case: type) -> None:
        def wrapped(original: Any, operator: str) -> Any:
            def method(test: Any, first: Any, second: Any, *args: Any, **kwargs: Any) -> Any:
                self._pair(first, second, operator)
                return original(test, first, second, *args, **kwargs)

            return functools.wraps(original)(method)

        for name, operator in ASSERTIONS.items():
            setattr(case, name, wrapped(getattr(case, name), operator))

    def left(self, value: object) -> object:
        """Evaluated first: the left side of a comparison, as it is."""
        self._left.append(value)
        return value

    def right(self, value: object, operator: str) -> object:
        """Evaluated second: the right side, as it is, after a look at both."""
        if self._left:
            self._pair(self._left.pop(), value, operator)
        return value

    def _pair(self, first: object, second: object, operator: str) -> None:
        """Fail where one side decides for itself how it compares, the other does not, and the answer is yes."""
        if type(first) in PLAIN and type(second) in PLAIN:
            return
        if self._is_foreign(first) == self._is_foreign(second):
            return
        try:
            answer = COMPARE[operator](first, second)
        except Exception:
            return
        if answer is True or (
            answer and type(answer) not in (bool, *CONTAINERS) and self._type_is_foreign(type(answer))
        ):
            self._fail(f"a returned value has a {operator} of its own")

    def _is_foreign(self, value: object, depth: int = MOST_DEPTH) -> bool:
        """Whether comparisons of the value, or of what it contains, run the tested code's own methods."""
        kind = type(value)
        if kind in PLAIN:
            return False
        if self._type_is_foreign(kind):
            return True
        container: Any = next((base for base in CONTAINERS if base in _mro(kind)), None)
        if container is None or depth == 0:
            return False
        elements = itertools.islice(container.__iter__(value), MOST_ELEMENTS)
        if any(self._is_foreign(element, depth - 1) for element in elements):
            return True
        mapping: Any = value
        return container is dict and any(self._is_foreign(entry, depth - 1) for entry in dict.values(mapping))

    def _type_is_foreign(self, kind: type) -> bool:
        known = self._foreign.get(kind)
        if known is None:
            known = self._foreign[kind] = any(self._compares_itself(owner) for owner in _mro(kind))
        return known

    def _compares_itself(self, owner: type) -> bool:
        """Whether a class brings a comparison that neither Python, a library nor the task's own classes had."""
        methods = [vars(owner)[name] for name in COMPARISONS if name in vars(owner)]
        if owner.__name__ in self._comparing:
            return False
        for method in methods:
            if isinstance(method, FunctionType):
                name = method.__code__.co_filename
                if name not in self._pristine and (name.startswith(self._work) or not os.path.isfile(name)):
                    return True
            elif method is not None and not isinstance(method, SLOTS):
                module = sys.modules.get(owner.__module__)
                if getattr(module, owner.__name__, None) is not owner or self._is_ours(module):
                    return True
        return False

    def _is_ours(self, module: ModuleType | None) -> bool:
        return str(getattr(module, "__file__", None) or "").startswith(self._work)

    def replaced_in(self, space: Mapping[str, object]) -> bool:
        """Whether a test module no longer holds the wrappers that it was given."""
        return LEFT in space and (space[LEFT], space[RIGHT]) != self._both


class Operands(ast.NodeTransformer):
    """Wraps both sides of every comparison of two values; identity and chains stay as they are."""

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        self.generic_visit(node)
        operator = OPERATORS.get(type(node.ops[0]))
        named = any(isinstance(part, ast.NamedExpr) for part in ast.walk(node))
        if len(node.ops) == 1 and operator and not named:
            node.left = _call(LEFT, node.left)
            node.comparators = [_call(RIGHT, node.comparators[0], ast.Constant(operator))]
        return node


def _call(name: str, value: ast.expr, *more: ast.expr) -> ast.Call:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [value, *more], []), value)


def _first_statement(tree: ast.Module) -> int:
    """Where an import may go: after the docstring and `from __future__ import`."""
    at = 0
    for number, statement in enumerate(tree.body):
        text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if (number == 0 and text) or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            at = number + 1
    return at
