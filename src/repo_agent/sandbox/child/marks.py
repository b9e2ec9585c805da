"""What the names of modules and classes stood for before tested code loaded, and whether they still do."""

from __future__ import annotations

import codecs
import copy
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import pytest

METHODS = (FunctionType, classmethod, staticmethod, property)
CONSTANTS = (int, float, complex, str, bytes, tuple, frozenset)
CLOSED = frozenset({"pytest", "_pytest", "pluggy", "unittest"})
"""Packages whose classes may get no new name either: `TestCase.__test__ = False`."""
# pytest's own legacypath puts methods into its classes while a session lasts.
FREE = ("hook", "warn", "set_trace", "__getattr__")
"""Parts of names that pytest, and programs, may give another meaning."""
CHANGING, SAYING = ("sys", "time"), ("maxDiff", "longMessage")
"""Modules whose constants are none; attributes of a test case that only say how much is told."""
OF_SYS = frozenset({"executable", "platform", "byteorder", "maxsize", "maxunicode", "version", "hexversion"})
"""Constants of sys all the same: what tests choose by."""
DISPATCHES = ((copy, "_deepcopy_dispatch", False), (copy, "_copy_dispatch", False))
"""Tables by module and name, and whether they may get no new key."""


class _Mark(NamedTuple):
    """What a name stood for, and what it ran."""

    owner: ModuleType | type
    space: Mapping[str, Any]
    name: str
    value: object
    state: Sequence[object] | None


class _Noted(NamedTuple):
    """All that was noted of one module or class, and every name that it had."""

    names: Mapping[str, Any]
    marks: Sequence[_Mark]
    codes: frozenset[object]


_EARLY: dict[ModuleType | type, _Noted] = {}


def note_early(roots: Collection[str]) -> None:
    """Note these packages once for all runs that this process forks. A run takes over what is as it was."""
    noted = Marks(lambda _: None, lambda *_: False)
    noted.note_modules(roots)
    marks: dict[ModuleType | type, list[_Mark]] = {}
    for mark in noted.marks:
        marks.setdefault(mark.owner, []).append(mark)
    _EARLY.update((owner, _Noted(dict(vars(owner)), those, _codes(those))) for owner, those in marks.items())


class Marks:
    """`fail` does not return; `is_own(value, name)`: whether the task's own tests put a value there."""

    def __init__(self, fail: Callable[[str], None], is_own: Callable[[object, str], bool]) -> None:
        self._fail, self._is_own = fail, is_own
        self.marks: list[_Mark] = []
        self._core: list[_Mark] = []
        self._codes: set[object] = set()
        self._modules: dict[str, ModuleType] = {}
        self._names: dict[type, frozenset[str]] = {}
        self._legacy: set[object] = set()
        self._tables: list[tuple[str, Mapping[object, object], dict[object, object], bool]] = []

    def note_modules(self, roots: Collection[str]) -> None:
        """Every loaded module of these packages, with its classes."""
        found = {name: module for name, module in sys.modules.items() if name.split(".")[0] in roots}
        modules = {name: module for name, module in found.items() if isinstance(module, ModuleType)}
        self._modules |= modules
        seen: set[type] = set()
        for module in dict.fromkeys(modules.values()):  # os.path has two names
            self._note(module, _is_of_module)
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__.split(".")[0] in roots and value not in seen:
                    seen.add(value)
                    self.note_class(value)
        legacy = vars(sys.modules["_pytest.legacypath"]) if "_pytest.legacypath" in sys.modules else {}
        self._legacy = {code_of(value) for value in legacy.values()} - {None}
        core = (pytest.Function, pytest.Item, pytest.Module, pytest.TestReport, pytest.CallInfo)
        wanted = {id(vars(owner)[name]) for owner in core for name in vars(owner)}
        self._core = [mark for mark in self.marks if id(mark.value) in wanted]

    def note_tables(self) -> None:
        """What Python's own modules look things up in; the objects that json keeps get no new attribute either."""
        for owner, name, closed in (*((json, f"_default_{one}coder", True) for one in ("de", "en")), *DISPATCHES):
            held = vars(owner).get(name, {})
            table = held if isinstance(held, dict) else vars(held)
            self._tables.append((f"{owner.__name__}.{name}", table, dict(table), closed))
        for name in ("utf-8", "ascii", "latin-1"):
            codec: dict[Any, Any] = vars(codecs.lookup(name))
            self._tables.append((f"the codec {name}", codec, dict(codec), True))

    def note_class(self, owner: type) -> None:
        self._note(owner, _is_of_class)
        if owner.__module__.split(".")[0] in CLOSED:
            self._names[owner] = frozenset(vars(owner))

    def has_code(self, code: object) -> bool:
        return code in self._codes

    def check_core(self) -> None:
        self._compare(self._core)

    def check(self) -> None:
        self._compare(self.marks)
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module and not self._is_own(sys.modules.get(name), name):
                self._fail(f"the module {name} was replaced")
        for name, table, before, closed in self._tables:
            if any(table.get(key) is not value for key, value in before.items()) or (
                closed and len(table) > len(before)
            ):
                self._fail(f"{name} was changed")
        patterns = {**vars(re).get("_cache", {}), **vars(re).get("_cache2", {})}
        if any(type(kept) is re.Pattern and kept.pattern != key[1] for key, kept in patterns.items()):
            self._fail("a pattern that re keeps was changed")
        for owner, names in self._names.items():
            for name in vars(owner).keys() - names:
                value = vars(owner)[name]
                says = name == "__test__" or callable(value) or isinstance(value, METHODS)
                if says and code_of(value) not in self._legacy:
                    self._fail(f"{owner.__name__} got {name}")

    def _note(self, owner: Any, is_noted: Callable[[Any, str, object], bool]) -> None:
        early = _EARLY.get(owner)
        if early is not None and early.names == vars(owner):
            self.marks += early.marks
            self._codes |= early.codes
            return
        parts = [(name, value) for name, value in vars(owner).items() if is_noted(owner, name, value)]
        marks = [_Mark(owner, vars(owner), name, value, state_of(value)) for name, value in parts]
        self.marks += marks
        self._codes |= _codes(marks)

    def _compare(self, marks: Sequence[_Mark]) -> None:
        for mark in marks:
            _, space, name, value, state = mark
            now = space.get(name)
            if now is value:
                if state is None:
                    continue
                if type(now) is FunctionType and len(state) == 2:  # most are, and every run asks for thousands
                    code, defaults = state
                    if now.__code__ is code and now.__defaults__ is defaults and not now.__kwdefaults__:
                        continue
                if same(state, state_of(now)):
                    continue
            if code_of(now) not in self._legacy and not self._is_own(now, mark.name):
                self._fail(f"{mark.owner.__name__}.{mark.name} was replaced")


def _codes(marks: Sequence[_Mark]) -> frozenset[object]:
    return frozenset(mark.state[0] for mark in marks if mark.state)


def _is_of_module(module: ModuleType, name: str, value: object) -> bool:
    return not any(part in name for part in FREE) and (callable(value) or _is_constant(module, name, value))


def _is_of_class(owner: type, name: str, value: object) -> bool:
    closed = owner.__module__.split(".")[0] in CLOSED and name[:1] != "_" and name not in SAYING
    return isinstance(value, METHODS) or (closed and (isinstance(value, type) or type(value) in CONSTANTS))


def _is_constant(module: ModuleType, name: str, value: object) -> bool:
    """Such as math.pi. Programs do set what some libraries hold in the open, so only Python's own and numpy's count."""
    root = module.__name__.split(".")[0]
    own = root == "numpy" or (root in sys.stdlib_module_names and root not in CHANGING)
    own = own or (root == "sys" and name in OF_SYS)
    return own and name[:1] != "_" and type(value) in CONSTANTS


def code_of(value: object) -> object:
    """The code of a function, however it is bound; None for all else."""
    function = _function(value)
    return None if function is None else function.__code__


def state_of(value: object) -> Sequence[object] | None:
    """What a function runs: its code, its defaults, and the functions that it closes over; None for all else."""
    function = _function(value)
    if function is None:
        return None
    if not (function.__closure__ or function.__kwdefaults__):  # as most are
        return [function.__code__, function.__defaults__]
    inside = (_content(cell) for cell in function.__closure__ or ())
    more = [one if isinstance(one, (FunctionType, MethodType, type)) else None for one in inside]
    return [function.__code__, function.__defaults__, *(function.__kwdefaults__ or {}).values(), *more]


def same(noted: Sequence[object] | None, now: Sequence[object] | None) -> bool:
    """Whether two states are one; what was no function may be anything."""
    if noted is None or now is None:
        return noted is now
    return len(noted) == len(now) and all(one is None or one is other for one, other in zip(noted, now, strict=True))


def _function(value: object) -> FunctionType | None:
    if type(value) is FunctionType:
        return value
    if isinstance(value, (classmethod, staticmethod, MethodType)):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    elif type(value).__name__ in ("_ArrayFunctionDispatcher", "_lru_cache_wrapper"):
        value = getattr(value, "__wrapped__", None)
    return value if type(value) is FunctionType else None


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None
