"""What the names of modules and classes stood for before tested code loaded, and whether they still do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import pytest

METHODS = (FunctionType, classmethod, staticmethod, property)
CLOSED = frozenset({"pytest", "_pytest", "pluggy", "unittest"})
"""Packages whose classes may get no new name either: `TestCase.__test__ = False`."""
# pytest's own legacypath puts methods into its classes while a session lasts.
FREE = ("hook", "warn", "set_trace", "__getattr__")
"""Parts of names that pytest, and programs, may give another meaning."""


class _Mark(NamedTuple):
    """What a name stood for, and the code it ran."""

    owner: ModuleType | type
    space: Mapping[str, Any]
    name: str
    value: object
    code: object


_EARLY: dict[ModuleType | type, tuple[dict[str, Any], list[_Mark]]] = {}
_EARLY_CODES: set[object] = set()


def note_early(roots: Collection[str]) -> None:
    """Note the loaded modules of these packages once for all runs that this process forks: names, and their marks.

    A run takes over what still is as it was, so this saves time and decides nothing.
    """
    noted = Marks(lambda _: None, lambda *_: False)
    noted.note_modules(roots)
    for mark in noted.marks:
        _EARLY.setdefault(mark.owner, (dict(vars(mark.owner)), []))[1].append(mark)
        _EARLY_CODES.add(mark.code)


class Marks:
    """`fail` does not return; `is_own(value, name)`: whether the task's own tests put a value there."""

    def __init__(self, fail: Callable[[str], None], is_own: Callable[[object, str], bool]) -> None:
        self._fail, self._is_own = fail, is_own
        self.marks: list[_Mark] = []
        self._core: list[_Mark] = []
        self._codes = set(_EARLY_CODES)
        self._modules: dict[str, ModuleType] = {}
        self._names: dict[type, frozenset[str]] = {}
        self._legacy: set[object] = set()

    def note_modules(self, roots: Collection[str]) -> None:
        """Every loaded module of these packages, with its classes."""
        found = {name: module for name, module in sys.modules.items() if name.split(".")[0] in roots}
        self._modules = {name: module for name, module in found.items() if isinstance(module, ModuleType)}
        seen: set[type] = set()
        for module in self._modules.values():
            self._note(module, _is_called)
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__.split(".")[0] in roots and value not in seen:
                    seen.add(value)
                    self.note_class(value)
        legacy = vars(sys.modules["_pytest.legacypath"]) if "_pytest.legacypath" in sys.modules else {}
        self._legacy = {code_of(value) for value in legacy.values()} - {None}
        core = (pytest.Function, pytest.Item, pytest.Module, pytest.TestReport, pytest.CallInfo)
        wanted = {id(vars(owner)[name]) for owner in core for name in vars(owner)}
        self._core = [mark for mark in self.marks if id(mark.value) in wanted]

    def note_class(self, owner: type) -> None:
        self._note(owner, lambda _, value: isinstance(value, METHODS))
        if owner.__module__.split(".")[0] in CLOSED:
            self._names[owner] = frozenset(vars(owner))

    def has_code(self, code: object) -> bool:
        return code is not None and code in self._codes

    def check_core(self) -> None:
        self._compare(self._core)

    def check(self) -> None:
        self._compare(self.marks)
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module and not self._is_own(sys.modules.get(name), name):
                self._fail(f"the module {name} was replaced")
        for owner, names in self._names.items():
            for name in vars(owner).keys() - names:
                value = vars(owner)[name]
                says = name == "__test__" or callable(value) or isinstance(value, METHODS)
                if says and code_of(value) not in self._legacy:
                    self._fail(f"{owner.__name__} got {name}")

    def _note(self, owner: ModuleType | type, is_noted: Callable[[str, object], bool]) -> None:
        names, marks = _EARLY.get(owner, (None, []))
        if names is None or names != vars(owner):
            parts = [part for part in vars(owner).items() if is_noted(*part)]
            marks = [_Mark(owner, vars(owner), name, value, code_of(value)) for name, value in parts]
            self._codes.update(mark.code for mark in marks)
        self.marks += marks

    def _compare(self, marks: Sequence[_Mark]) -> None:
        for mark in marks:
            now = mark.space.get(mark.name)
            if now is mark.value and (mark.code is None or code_of(now) is mark.code):
                continue
            if code_of(now) not in self._legacy and not self._is_own(now, mark.name):
                self._fail(f"{mark.owner.__name__}.{mark.name} was replaced")


def _is_called(name: str, value: object) -> bool:
    return callable(value) and not any(part in name for part in FREE)


def code_of(value: object) -> object:
    """The code of a function, however it is bound; None for all else."""
    if isinstance(value, (classmethod, staticmethod, MethodType)):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    return value.__code__ if type(value) is FunctionType else None
