"""Comparisons and calculations in the task's own files that the tested code may not decide.

`assert f(x) == 3` proves nothing where `f` returns an object whose `__eq__` says yes to everything. So every comparison
in a test file, or in a module that the tests bring, is made here: once, after a look at the types of both sides. Where
one side answers by methods of the model's own (origin.py), the other does not, and the answer is more than "not equal",
the run is stopped. Calculations (`abs(f(x) - 3) < 0.1`), calls that compare (`np.allclose`, `list.index`), keys,
`match` and unittest's assertions are held to the same.

Objects of the model's classes among themselves are believed, and so are classes that the task itself lets compare.
"""

from __future__ import annotations

import ast
import functools
import inspect
import operator as operators
import sys
import threading
import types
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

import _pytest.assertion.rewrite
import pytest

from repo_agent.sandbox.child.origin import CALCULATING, COMPARING, CONTAINERS, LEAVES, METHODS, Origins, is_passed_over
from repo_agent.sandbox.child.wrap import Calls, Operators, first_statement, fix_locations, mark_ends

COMPARE: Mapping[str, Callable[[Any, Any], object]] = {
    "Eq": operators.eq,
    "NotEq": operators.ne,
    "Lt": operators.lt,
    "LtE": operators.le,
    "Gt": operators.gt,
    "GtE": operators.ge,
    "In": lambda part, whole: part in whole,
    "NotIn": lambda part, whole: part not in whole,
    "Is": operators.is_,
    "IsNot": operators.is_not,
}
PROVES_NOTHING = {"Eq": False, "In": False, "NotEq": True, "NotIn": True}
"""The answer that strangers have by themselves."""
LOOKING_UP = ("In", "NotIn")
KEYS: type = type({}.keys())
_NODES = "Add Sub Mult MatMult Div FloorDiv Mod Pow LShift RShift BitAnd BitXor BitOr".split()
_METHODS = "add sub mul matmul truediv floordiv mod pow lshift rshift and xor or".split()
CALCULATE: Mapping[str, tuple[Callable[[Any, Any], object], Callable[[Any, Any], object]]] = {
    node: (getattr(operators, f"__{method}__"), getattr(operators, f"__i{method}__"))
    for node, method in zip(_NODES, _METHODS, strict=True)
}
ASSERTIONS = (
    *("Equal", "Equals", "AlmostEqual", "AlmostEquals", "In", "Less", "LessEqual", "Greater", "GreaterEqual"),
    *("ListEqual", "TupleEqual", "SetEqual", "DictEqual", "SequenceEqual", "CountEqual", "MultiLineEqual"),
    "DictContainsSubset",
)
FUNCTIONS = (types.BuiltinFunctionType, types.MethodWrapperType)
OF_DATA = frozenset("actual desired expected first second left right".split())
"""Names by which calls that compare are given what they compare."""
SOURCE = "@repo_agent"
"""No identifier, so no source can name it."""


class Comparisons:
    """Makes the comparisons of one run; `fail` does not return."""

    def __init__(self, fail: Callable[[str], None], origins: Origins) -> None:
        self._fail, self._origins = fail, origins
        self._local = _Stack()
        self._any: object = None
        self.ends: set[str] = set()
        self.ended: set[str] = set()
        """What functions of the tests say at their ends, and which have said it; see wrap.py."""
        names = ("compare", "link", "linked", "calculate", "change", "receiver", "arguments", "key", "subject", "own")
        more = ("of_module", "gathered", "pairs", "passed_on", "named", "received")
        self._given: dict[str, object] = {f"@{name}": getattr(self, name) for name in (*names, *more)}
        self._given["@ended"] = self.ended.add  # no tracer takes it for a function of the tests

    def install(self, with_unittest: bool, watched: Collection[str]) -> None:
        """Let pytest, on rewriting one of the files `watched`, put calls of ours in the place of comparisons."""
        self._distrust(with_unittest)
        original = _pytest.assertion.rewrite.rewrite_asserts
        module = ModuleType(SOURCE)
        vars(module).update(self._given)
        sys.modules[SOURCE] = module

        def rewrite_asserts(tree: ast.Module, source: bytes, path: str | None = None, *args: Any) -> None:
            if path not in watched:
                original(tree, source, path, *args)
                return
            Calls().visit(tree)
            ast.fix_missing_locations(tree)
            original(tree, source, path, *args)
            Operators().visit(tree)
            self.ends |= mark_ends(tree, str(path))
            names = [ast.alias(name, None) for name in self._given]
            tree.body[first_statement(tree) : 0] = [ast.ImportFrom(SOURCE, names, 0)]
            fix_locations(tree)

        vars(_pytest.assertion.rewrite)["rewrite_asserts"] = rewrite_asserts

    def _distrust(self, with_unittest: bool) -> None:
        self._origins.distrust(type(pytest.approx(1)).__mro__[-2])
        if not with_unittest:
            return
        import unittest.mock

        class Any_(type(unittest.mock.ANY)):  # type: ignore[misc]
            """What a test means by mock.ANY; the original is what tested code can get."""

        self._any = Any_()
        for name in (f"assert{one}" for one in ASSERTIONS):
            if hasattr(unittest.TestCase, name):
                setattr(unittest.TestCase, name, self._wrapped(getattr(unittest.TestCase, name)))

    def _wrapped(self, original: Any) -> Any:
        form, methods = inspect.signature(original), METHODS if "Almost" in original.__name__ else COMPARING

        def method(test: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                _, first, second, *_ = form.bind(test, *args, **kwargs).arguments.values()
            except (TypeError, ValueError):
                return original(test, *args, **kwargs)  # which says what is missing
            unequal = self._differ(first, second, methods)
            result = original(test, *args, **kwargs)
            if unequal:
                self._stop()
            return result

        return functools.wraps(original)(method)

    def compare(self, first: object, operator: str, second: object) -> object:
        """One comparison, made once."""
        if (type(first) in LEAVES and type(second) in LEAVES) or operator in ("Is", "IsNot"):
            return COMPARE[operator](first, second)
        whole = _asked(second) if operator in LOOKING_UP or type(second) is KEYS else second
        unequal = self._differ(_asked(first) if type(first) is KEYS else first, whole, COMPARING)
        answer = COMPARE[operator](first, second)
        if unequal and answer is not PROVES_NOTHING.get(operator):
            self._stop()
        return answer

    def link(self, first: object, operator: str, second: object) -> object:
        """A comparison that goes on, as in `a < b < c`; its right side is the left one of the next."""
        answer = self.compare(first, operator, second)
        if answer:
            self._local.stack.append(second)
            return True
        return answer

    def linked(self) -> object:
        return self._local.stack.pop()

    def calculate(self, first: object, operator: str, second: object) -> object:
        return self._calculated(first, operator, second, 0)

    def change(self, first: object, operator: str, second: object) -> object:
        """`first -= second` and the like."""
        return self._calculated(first, operator, second, 1)

    def _calculated(self, first: object, operator: str, second: object, form: int) -> object:
        make = CALCULATE[operator][form]
        text = operator == "Mod" and type(first) in (str, bytes)
        if text or (type(first) in LEAVES and type(second) in LEAVES):
            return make(first, second)
        unequal = operator not in ("Add", "Mult") and self._differ(first, second, CALCULATING)
        if unequal:
            self._stop()
        return make(first, second)

    def receiver(self, value: object) -> object:
        """What a method is called of, or a key is looked up in; `arguments` or `key` follows at once."""
        self._local.stack.append(value)
        return value

    def arguments(self, has_receiver: bool, *values: object) -> tuple[object, ...]:
        """The arguments of a call that compares; or the elements of a set, which compares them."""
        together = (self._local.stack.pop(), *values) if has_receiver else values
        self._local.said = together
        self._judge(together)
        return values

    def named(self, is_first: bool, values: Mapping[str, object]) -> Mapping[str, object]:
        """What such a call is given by name, after all else."""
        data = [value for name, value in values.items() if name in OF_DATA]
        self._judge([*(() if is_first else self._local.said), *data])
        return values

    def _judge(self, together: Collection[object]) -> None:
        judged = [(self._origins.is_foreign(value), is_passed_over(type(value))) for value in together]
        foreign = [is_foreign for is_foreign, is_passed in judged if is_foreign or not is_passed]
        if any(foreign) and not all(foreign):
            self._stop()

    def of_module(self, has_receiver: bool, *values: object) -> tuple[object, ...]:
        """The arguments of a call that compares if it is a module's; an object's method may be called the same."""
        if has_receiver and not isinstance(self._local.stack.pop(), ModuleType):
            self._local.said = ()
            return values
        return self.arguments(False, *values)

    def received(self, has_receiver: bool, *values: object) -> tuple[object, ...]:
        """What a mock, which is asked, should have been called with last."""
        call = getattr(self._local.stack.pop(), "call_args", None)
        given = call[0] if isinstance(call, tuple) and len(call) == 2 else ()
        for one, expected in zip(given, values, strict=False):
            own = getattr(type(expected).__eq__, "__code__", None)
            if expected is not self._any and not self._origins.has(own) and self._differ(one, expected, COMPARING):
                self._stop()
        return values

    def gathered(self, has_receiver: bool, *values: object) -> tuple[object, ...]:
        """The arguments of a call that compares their elements with each other: `set`, `max`, `union`."""
        holder = self._local.stack.pop() if has_receiver else None
        if not has_receiver or isinstance(holder, (dict, set, frozenset, type, ModuleType)):  # these take all of it
            values = tuple(list(value) if type(value) is types.GeneratorType else value for value in values)
        together = (holder, *values) if isinstance(holder, (dict, set, frozenset)) else values
        inside = [
            element
            for value in together
            for element in (value if type(value) in CONTAINERS or type(value) is dict else [value])  # type: ignore
        ]
        if not {*map(type, inside)} <= LEAVES:
            judged = [(self._origins.is_foreign(value), is_passed_over(type(value))) for value in inside]
            if len({is_foreign for is_foreign, is_passed in judged if is_foreign or not is_passed}) > 1:
                self._stop()
        return values

    def pairs(self, *said: object) -> dict[object, object]:
        """A dict that is written out: each key and its value, in the order in which they were worked out."""
        return dict(zip(self.arguments(False, *said[::2]), said[1::2], strict=True))

    def passed_on(self, value: Any) -> object:
        """A function that compares, `operator.eq` or `(1).__eq__`, and is called elsewhere: the same holds there."""
        if type(value) not in FUNCTIONS:
            return value
        return functools.partial(self._applied, value)

    def _applied(self, function: Callable[..., object], *args: object, **more: object) -> object:
        whose = getattr(function, "__self__", None)
        bound = () if isinstance(whose, (ModuleType, type(None))) else (whose,)
        self.arguments(False, *bound, *args)
        return function(*args, **more)

    def key(self, value: object) -> object:
        holder = self._local.stack.pop()
        if (
            type(value) not in LEAVES
            and isinstance(holder, (dict, set))
            and holder
            and self._differ(value, _asked(holder), COMPARING)
        ):
            self._stop()
        return value

    def subject(self, value: object) -> object:
        """What a `match` with constants looks at."""
        if self._origins.is_foreign(value):
            self._stop()
        return value

    def own(self, value: object) -> object:
        """mock.ANY or approx in a test: what the test means by it, and nobody else has."""
        if self._any is not None and type(value) is type(self._any).__mro__[1]:
            value = self._any
        self._origins.own(value)
        return value

    def _differ(self, first: object, second: object, methods: Collection[str]) -> bool:
        """Whether one side alone answers by methods of the model's own."""
        return self._origins.is_foreign(first, methods) != self._origins.is_foreign(second, methods)

    def _stop(self) -> None:
        self._fail("a returned value decides for itself what it equals")

    def replaced_in(self, space: Mapping[str, object]) -> bool:
        """Whether a test module no longer holds what it was given."""
        return "@compare" in space and any(space.get(name) != value for name, value in self._given.items())

    def gives(self, name: str) -> bool:
        return name in self._given


def _asked(holder: object) -> object:
    """What a lookup asks: of a dict its keys alone."""
    return list(holder) if type(holder) in (dict, KEYS) else holder  # type: ignore[call-overload]


class _Stack(threading.local):
    """Values on their way from one call to the next, of one thread."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.said: tuple[object, ...] = ()
