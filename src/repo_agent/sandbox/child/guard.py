"""Against code that makes its own tests pass: what may not change, what may not be shadowed, what may not compare.

- What tests judge by is loaded before tested code is: pytest, unittest, and every module that the task's own files
  import from elsewhere. Nothing in the workspace can take their names.
- Functions, classes and their methods are then noted, and compared after collection and at the end; those that every
  result passes through around each test too. Hooks are pytest's, a library's, ours, or the task's own conftest's.
- The task's files are loaded as given (pristine.py), their comparisons made by us (compare.py), and a test runs the
  code that stands there.
- A skip is the tests' to raise, not the code's.

Not covered: code that sets out to undo its traces (it shares this interpreter), and objects of the code's own classes
compared with each other.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Collection, Sequence
from types import ModuleType, TracebackType
from typing import Any

import pluggy
import pytest

from repo_agent.sandbox.child.channel import Channel
from repo_agent.sandbox.child.compare import Comparisons
from repo_agent.sandbox.child.marks import Marks, code_of
from repo_agent.sandbox.child.origin import Origins
from repo_agent.sandbox.child.pristine import Pristine

FAMILY = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
WATCHED = frozenset({"pytest", "_pytest", "pluggy", "unittest", "json", "builtins", "importlib"})


class Guard:
    """Watches one run of tests in this process. `work` is the workspace; `job` says what is the task's."""

    def __init__(self, channel: Channel, work: str, job: dict[str, Any]) -> None:
        self._channel, self._work = channel, work + os.sep
        self._pristine = frozenset(os.path.join(work, name) for name in job["pristine"])
        self._origins = Origins(self._work, self._pristine, job["comparing"])
        self._files = Pristine(self._work, job["pristine"], self._origins, self._fail, job["moves"])
        self._comparisons = Comparisons(self._fail, self._origins)
        self._marks = Marks(self._fail, self._files.is_own)
        self._own, self._with_unittest = frozenset(job["own"]), job["unittest"]
        self._items: dict[pytest.Item, tuple[object, object]] = {}

    def install(self, more: Sequence[type]) -> None:
        """Load and change what is ours to change, before rights are given up."""
        if self._with_unittest:
            import unittest.mock  # noqa: F401
        for name in plugins():
            importlib.import_module(name)
        self._comparisons.install(self._with_unittest, self._pristine)
        self._files.install(self._comparisons.gives)
        for owner in (*more, Guard, Reserved, Comparisons, Origins, Pristine, Marks):
            self._marks.note_class(owner)

    def begin(self) -> None:
        """Before tested code can load: load what the tests import from elsewhere, note all that may not change."""
        roots, path = set(WATCHED), sys.path[:]
        sys.path[:] = [entry for entry in path if entry and not (entry + os.sep).startswith(self._work)]
        reserved = set(sys.stdlib_module_names) | {*FAMILY}
        for name, loads in self._files.imported():
            root = name.split(".")[0]
            if root not in self._own and (root in sys.modules or importlib.machinery.PathFinder.find_spec(root)):
                reserved.add(root)
                roots.add(root)
                if loads:
                    _load(name)
        sys.meta_path.insert(0, Reserved(reserved - self._own, sys.path[:]))
        sys.path[:] = path
        self._marks.note_modules(roots)

    def note_items(self, session: pytest.Session) -> None:
        """Once collected: the function of each test, and its code; all else is as it was."""
        self._items = {item: _function(item) for item in session.items}
        self._files.check_files()
        self._files.check_folder()
        self._files.check_modules()
        self._marks.check()
        self._check_instances(session)
        for item in session.items:
            self._check_code(item)

    def check_item(self, item: pytest.Item, reporter: object) -> None:
        """Before and after a test: the few functions that every result passes through, and the test itself."""
        self._marks.check_core()
        function, code = _function(item)
        noted = self._items.get(item)
        if noted is None or noted[0] is not function or noted[1] is not code or _shadowed(item):
            self._fail(f"{item.nodeid} is not the test that was collected")
        space = vars(getattr(item, "module", None) or ModuleType("none"))
        if self._comparisons.replaced_in(space) or vars(reporter).get("channel") is not self._channel:
            self._fail("the watch on the tests was replaced")
        self._files.check_modules()
        self._files.check_folder()
        self._check_instances(item.session)

    def check(self, config: pytest.Config | None) -> None:
        """At the end: everything noted, and every hook."""
        self._marks.check()
        self._files.check_files()
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

    def _check_code(self, item: pytest.Item) -> None:
        """A test that stands in a file of the task's runs the code that stands there, whatever decorates it."""
        function, code = _function(item)
        name = str(getattr(item, "originalname", "") or "")
        parents = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        if code is None or not self._files.defines(str(item.path), (parents or [name])[0]):
            return
        while not self._origins.has(code) and (function := _inside(function)) is not None:
            code = code_of(function)
        if not self._origins.has(code) and not self._origins.is_library(code):
            self._fail(f"{item.nodeid} does not run the code of its file")

    def _check_instances(self, session: pytest.Session) -> None:
        """No object of pytest's has a method of its own put over its class's, and no hook is anything but a hook."""
        manager = session.config.pluginmanager
        for thing in (session, session.config, manager, pytest.mark, *sys.meta_path):
            if not isinstance(thing, type) and (name := _shadowed(thing)):
                self._fail(f"{name} of a {type(thing).__name__} was replaced")
        for name, caller in vars(manager.hook).items():
            if name.startswith("pytest_") and not isinstance(caller, pluggy.HookCaller):
                self._fail(f"the hook {name} was replaced")

    def _check_hooks(self, manager: pytest.PytestPluginManager) -> None:
        for caller in vars(manager.hook).values():
            for implementation in caller.get_hookimpls() if isinstance(caller, pluggy.HookCaller) else ():
                code = code_of(implementation.function)
                known = self._marks.has_code(code) or self._origins.has(code) or self._origins.is_library(code)
                if not known:
                    self._fail(f"a hook {caller.name} of the code under test")


def plugins() -> list[str]:
    """The modules of pytest's own plug-ins, which it loads anyway."""
    from _pytest.config import default_plugins

    return [f"_pytest.{name}" for name in default_plugins if name != "pytester"]


def _load(name: str) -> None:
    above, _, part = name.rpartition(".")
    if part in vars(sys.modules.get(above, sys)):
        return
    try:
        importlib.import_module(name)
    except BaseException:
        return  # the test that imports it will say why


def _shadowed(thing: object) -> str:
    """A function of an object's class that the object itself has another of."""
    own = getattr(thing, "__dict__", None) or {}
    for name, value in own.items():
        if callable(value) and any(callable(vars(owner).get(name)) for owner in type(thing).__mro__):
            return str(name)
        if name == "parametrize":  # pytest.mark makes its marks by __getattr__
            return str(name)
    return ""


def _function(item: pytest.Item) -> tuple[object, object]:
    """A test's function, without what it is bound to, and its code."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    return function, getattr(function, "__code__", None)


def _inside(function: object) -> object:
    """The function that a decorator, or hypothesis, has put this one around; None where it names none."""
    named = getattr(function, "__dict__", {})
    return named.get("__wrapped__") or getattr(named.get("hypothesis"), "inner_test", None)


class Reserved:
    """Finds the standard library, pytest and what tests import where they are, before the workspace is looked at."""

    def __init__(self, names: Collection[str], path: list[str]) -> None:
        self._names, self._path = frozenset(names), path

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if path is not None or name not in self._names:
            return None
        builtin = importlib.machinery.BuiltinImporter.find_spec(name)
        return builtin or importlib.machinery.PathFinder.find_spec(name, self._path)
