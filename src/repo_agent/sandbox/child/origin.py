"""Whose code a value runs when it is compared or calculated with: Python's and a library's, the task's, or the model's.

A class is taken for a library's by its code: each method must be what the file that it names compiles to. Names of
files, modules and classes prove nothing, since tested code can choose them.
"""

from __future__ import annotations

import datetime
import decimal
import gc
import os
import sys
import types
import weakref
from collections.abc import Callable, Collection
from typing import Any

COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
_BINARY = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or".split()
_CALCULATIONS = tuple(f"__{side}{name}__" for name in _BINARY for side in ("", "r", "i"))
_OF_ARRAYS = ("__array_ufunc__", "__array_function__", "__array_wrap__", "__array_prepare__", "__array_finalize__")
COMPARING, CALCULATING = frozenset((*COMPARISONS, *_OF_ARRAYS)), frozenset((*_CALCULATIONS, *_OF_ARRAYS))
METHODS = COMPARING | CALCULATING
"""What lets an object answer for itself, whatever stands on the other side; numpy hands an answer to the last three."""
LEAVES: frozenset[type] = frozenset(
    {int, float, complex, str, bytes, bytearray, bool, type(None), range, types.EllipsisType, decimal.Decimal}
    | {datetime.date, datetime.datetime, datetime.timedelta}
)
"""Exact types that hold no other object."""
CONTAINERS = frozenset({list, tuple, set, frozenset})
PASSED_OVER = frozenset({type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType})
"""Types, metaclasses aside, of what is no data."""
PROXIES = (weakref.ProxyType, weakref.CallableProxyType)
SLOTS: tuple[Any, ...] = (type(object.__eq__), type(vars(dict)["__contains__"]))
MOST_ELEMENTS = 1_000_000
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
"""What a metaclass cannot change."""
_EARLY: dict[str, set[types.CodeType]] = {}
FOREIGN, INNER, PLAIN = "foreign", "inner", "plain"
"""Of a class: the model's own comparison; a library's, whose elements decide; none, or the task's."""


def read_early(kinds: Collection[type]) -> None:
    """Read the files of these library classes' methods once for all runs that this process forks."""
    for method in [vars(kind)[name] for kind in kinds for name in METHODS if name in vars(kind)]:
        if isinstance(method, types.FunctionType) and method.__code__.co_filename not in _EARLY:
            _EARLY[method.__code__.co_filename] = _compiled(method.__code__.co_filename)


class _Nothing:
    """Equals itself alone."""


class Origins:
    """Paths in `pristine` are absolute; `comparing` holds `path::Class` of the task's classes, relative to `work`."""

    def __init__(self, work: str, pristine: Collection[str], comparing: Collection[str]) -> None:
        self._work, self._pristine, self._comparing = work, frozenset(pristine), frozenset(comparing)
        self._kinds: dict[type, str] = dict.fromkeys(CONTAINERS, INNER)
        self._noted: set[types.CodeType] = set()
        self._folders = _library_folders(os.path.dirname(work.rstrip(os.sep)))
        self._places: dict[str, bool] = {}
        self._files = dict(_EARLY)
        self._approx: type | None = None
        self._owned: dict[int, object] = {}

    def distrust(self, approx: type) -> None:
        """Of this class no object is believed that comes from no test."""
        self._approx = approx

    def own(self, value: object) -> None:
        """A test made this value."""
        self._owned[id(value)] = value

    def note(self, code: types.CodeType) -> None:
        """Code of the task's own files, with all that it holds."""
        self._noted.add(code)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.note(constant)

    def has(self, code: object) -> bool:
        """Whether code is of the task's own files."""
        return isinstance(code, types.CodeType) and code in self._noted

    def is_library(self, code: object) -> bool:
        """Whether code is what its file, of the interpreter or beside its packages, compiles to."""
        if not isinstance(code, types.CodeType):
            return False
        path = code.co_filename
        if path.startswith("<frozen ") and path.endswith(">"):
            path = os.path.join(os.path.dirname(os.__file__), *path[8:-1].split(".")) + ".py"
        if path not in self._files:
            self._files[path] = _compiled(path) if self._is_of_library(path) else set()
        return code in self._files[path]

    def is_foreign(self, value: object, methods: Collection[str] = METHODS) -> bool:
        """Whether the value, or anything in it that its comparison asks, answers by the model's own `methods`."""
        # A class may change between two questions, so what it was is known only while one is answered.
        waiting, seen, elements, kinds = [value], set[int](), 0, dict(self._kinds)
        while waiting:
            value = waiting.pop()
            kind = type(value)
            if kind in LEAVES or kind in PASSED_OVER or id(value) in seen:
                continue
            seen.add(id(value))
            if kind not in kinds:
                kinds[kind] = self._judged(kind, methods)
            if kinds[kind] == FOREIGN or self._equals_others(value, kind):
                return True
            if kinds[kind] == PLAIN:
                continue
            inside: list[Any] = _elements(value, kind)
            elements += len(inside)
            if elements > MOST_ELEMENTS:
                return False
            if not {*map(type, inside)} <= LEAVES:
                waiting += inside
        return False

    def _equals_others(self, value: object, kind: type) -> bool:
        """A proxy, or what equals any object, such as mock.ANY, and comes from no test; masked elements do."""
        if kind in PROXIES or _is_masked(value, kind):
            return True
        if id(value) in self._owned:
            return False
        if self._approx is not None and self._approx in _mro(kind):
            return True
        equal = next((vars(owner)["__eq__"] for owner in _mro(kind) if "__eq__" in vars(owner)), None)
        if type(equal) is not types.FunctionType or not self.is_library(equal.__code__):
            return False
        try:
            return equal(value, _Nothing()) is True
        except Exception:
            return False

    def _judged(self, kind: type, methods: Collection[str]) -> str:
        owners = [owner for owner in _mro(kind) if owner is not object]
        found = [(owner, name, vars(owner)[name]) for owner in owners for name in methods if name in vars(owner)]
        if any(not self._is_trusted(kind, *method) for method in found):
            return FOREIGN
        if any(self._is_tasks(owner) for owner, _, _ in found):
            return PLAIN  # believed whatever it holds
        return INNER if found and not is_passed_over(kind) else PLAIN

    def _is_trusted(self, kind: type, owner: type, name: str, method: Any) -> bool:
        if method is None or self._is_tasks(owner):
            return True
        if isinstance(method, SLOTS):
            return method.__name__ == name and method.__objclass__ in _mro(kind)
        if type(method) is not types.FunctionType:
            return False
        return self.has(method.__code__) or (self.is_library(method.__code__) and self.stands(owner, method))

    def _is_of_library(self, path: str) -> bool:
        if path not in self._places:
            self._places[path] = os.path.realpath(path).startswith(self._folders)
        return self._places[path]

    def stands(self, *things: Any) -> bool:
        """Whether a class or function is what a library's module, or a class of it, has by that name."""
        for thing in things:
            found: object = sys.modules.get(thing.__module__)
            if self._is_of_library(str(getattr(found, "__file__", None) or "")):
                for part in thing.__qualname__.split("."):
                    found = getattr(found, "__dict__", {}).get(part)
                if found is thing:
                    return True
        return False

    def _is_tasks(self, owner: type) -> bool:
        """Whether a class is one that the task's own files, or its fix, let compare; by file and name."""
        module = sys.modules.get(owner.__module__)
        path = str(getattr(module, "__file__", None) or "")
        return path.startswith(self._work) and f"{path[len(self._work) :]}::{owner.__name__}" in self._comparing


def _library_folders(scratch: str) -> tuple[str, ...]:
    """The interpreter's, and those of packages; asked for before tested code loads. None lies below `scratch`."""
    found = {
        os.path.realpath(path)
        for path in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *sys.path)
        if path
    }
    return tuple(path + os.sep for path in sorted(found) if not (path + os.sep).startswith(scratch + os.sep))


def is_passed_over(kind: type) -> bool:
    """Whether a value of this type is a class, a module or a function, which are no data."""
    return kind in PASSED_OVER or type in _mro(kind)


def _is_masked(value: Any, kind: type) -> bool:
    """Whether a numpy array has elements that no comparison looks at."""
    masked = sys.modules.get("numpy.ma.core")
    return masked is not None and getattr(masked, "MaskedArray", None) in _mro(kind) and bool(value._mask.any())


def _elements(value: Any, kind: type) -> list[Any]:
    if kind in CONTAINERS:
        return list(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and getattr(numpy, "ndarray", None) in _mro(kind):
        return list(value.flat) if value.dtype.hasobject else []
    pandas = sys.modules.get("pandas")
    for name in ("DataFrame", "Series", "Index"):
        base: Any = getattr(pandas, name, None)
        if base in _mro(kind):
            array = base.to_numpy(value)
            return list(array.flat) if array.dtype.hasobject else []
    return gc.get_referents(value)


def _compiled(path: str) -> set[types.CodeType]:
    """Every code object that a source file holds; none where it cannot be read."""
    found: set[types.CodeType] = set()
    try:
        with open(path, "rb") as file:
            waiting = [compile(file.read(), path, "exec", dont_inherit=True)]
    except (OSError, SyntaxError, ValueError):
        return found
    while waiting:
        code = waiting.pop()
        found.add(code)
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found
