"""Against code that makes its own tests pass: what may not change, what may not be shadowed, what may not compare.

- `pytest`, `unittest` and the standard library are found outside the workspace, whatever it calls its files.
- Functions and classes of pytest, pluggy, unittest, json and the builtins are what they were before tested code
  loaded; hooks are pytest's, ours, or those of the task's own conftest.
- Comparisons in test files are watched (compare.py).
- A skip is the tests' to raise, not the code's.

Not covered: code that sets out to undo its traces (it shares this interpreter), and objects of the code's own classes
compared with each other.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType, TracebackType
from typing import Any, NamedTuple

import pluggy
import pytest

from repo_agent.sandbox.child.channel import Channel
from repo_agent.sandbox.child.compare import Comparisons

FAMILY = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
WATCHED = ("pytest", "_pytest", "pluggy", "unittest", "json", "builtins")


class _Mark(NamedTuple):
    """What a name of a module or class stood for, and the code it ran."""

    owner: ModuleType | type
    space: Mapping[str, Any]
    name: str
    value: object
    code: object


def _code(value: object) -> object:
    function = getattr(value, "__func__", getattr(value, "fget", value))
    return getattr(function, "__code__", None)


class Guard:
    """Watches one run of tests in this process. Paths in `pristine` are relative to the folder `work`."""

    def __init__(
        self, channel: Channel, work: str, pristine: Collection[str], own: Collection[str], comparing: Collection[str]
    ) -> None:
        self._channel, self._work = channel, work + os.sep
        self._pristine = frozenset(os.path.join(work, name) for name in pristine)
        self._own = frozenset(own)
        self._comparisons = Comparisons(self._fail, self._work, self._pristine, comparing)
        self._marks: list[_Mark] = []
        self._codes: set[object] = set()
        self._core: list[_Mark] = []
        self._items: dict[pytest.Item, tuple[object, object]] = {}

    def install(self, with_unittest: bool, more: Sequence[type]) -> None:
        """Before tested code loads: pin where modules are found, watch comparisons, note what may not change."""
        if with_unittest:
            import unittest.mock

            self._comparisons.wrap_assertions(unittest.TestCase)
        sys.meta_path.insert(0, Reserved(self._own, self._work))
        self._comparisons.install()
        for module in [module for name, module in sys.modules.items() if name.split(".")[0] in WATCHED]:
            self._note(module)
        for owner in (*more, Guard, Reserved, Comparisons):
            self._note_class(owner)
        core = (pytest.Function, pytest.Item, pytest.Module, pytest.TestReport, pytest.CallInfo)
        wanted = {id(vars(owner)[name]) for owner in core for name in vars(owner)}
        self._core = [mark for mark in self._marks if id(mark.value) in wanted]

    def note_items(self, items: Sequence[pytest.Item]) -> None:
        """Once collected: the function of each test, and its code."""
        self._items = {item: _function(item) for item in items}

    def check_item(self, item: pytest.Item) -> None:
        """Before and after a test: the few functions that every result passes through, and the test itself."""
        self._compare(self._core)
        function, code = _function(item)
        noted = self._items.get(item)
        if noted is None or noted[0] is not function or noted[1] is not code or "runtest" in vars(item):
            self._fail(f"{item.nodeid} is not the test that was collected")
        space = vars(getattr(item, "module", None) or ModuleType("none"))
        if self._comparisons.replaced_in(space):
            self._fail("the watch on comparisons was replaced")

    def check(self, config: pytest.Config | None) -> None:
        """At the end: everything noted, and every hook."""
        self._compare(self._marks)
        if config is not None:
            self._check_hooks(config.pluginmanager)

    def raised_by_code(self, trace: TracebackType | None) -> bool:
        """Whether the innermost frame outside pytest and unittest belongs to the code under test."""
        last = ""
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if not any(f"{os.sep}{room}{os.sep}" in name for room in ("_pytest", "unittest")):
                last = name
            trace = trace.tb_next
        return self.is_code(last)

    def is_code(self, path: str) -> bool:
        """Whether a file is of the code under test."""
        return path.startswith(self._work) and path not in self._pristine

    def _fail(self, what: str) -> None:
        self._channel.close("tampered", what=what)

    def _note(self, module: ModuleType) -> None:
        for name, value in list(vars(module).items()):
            if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
                self._mark(module, name, value)
            if isinstance(value, type) and value.__module__.split(".")[0] in WATCHED:
                self._note_class(value)

    def _note_class(self, owner: type) -> None:
        for name, value in list(vars(owner).items()):
            if isinstance(value, (FunctionType, classmethod, staticmethod, property)):
                self._mark(owner, name, value)

    def _mark(self, owner: ModuleType | type, name: str, value: object) -> None:
        self._marks.append(_Mark(owner, vars(owner), name, value, _code(value)))
        self._codes.add(_code(value))

    def _compare(self, marks: Sequence[_Mark]) -> None:
        for mark in marks:
            now = mark.space.get(mark.name)
            if now is not mark.value or _code(now) is not mark.code:
                self._fail(f"{mark.owner.__name__}.{mark.name} was replaced")

    def _check_hooks(self, manager: pytest.PytestPluginManager) -> None:
        for caller in vars(manager.hook).values():
            if not isinstance(caller, pluggy.HookCaller):
                continue
            for implementation in caller.get_hookimpls():
                code = getattr(getattr(implementation.function, "__func__", implementation.function), "__code__", None)
                name = str(getattr(code, "co_filename", ""))
                outside = os.path.isfile(name) and not name.startswith(self._work)
                if code not in self._codes and name not in self._pristine and not outside:
                    self._fail(f"a hook {caller.name} of the code under test")


def _function(item: pytest.Item) -> tuple[object, object]:
    """A test's function, without what it is bound to, and its code."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    return function, getattr(function, "__code__", None)


class Reserved:
    """Finds the standard library and pytest where they are, before the workspace is looked at.

    Names that the task's own files carry (`own`) are the task's.
    """

    def __init__(self, own: Collection[str], work: str) -> None:
        self._names = (frozenset(sys.stdlib_module_names) | frozenset(FAMILY)) - frozenset(own)
        self._path = [entry for entry in sys.path if entry and not (entry + os.sep).startswith(work)]

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if path is not None or name not in self._names:
            return None
        builtin = importlib.machinery.BuiltinImporter.find_spec(name)
        return builtin or importlib.machinery.PathFinder.find_spec(name, self._path)
