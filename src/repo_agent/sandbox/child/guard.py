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
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Sequence
from types import ModuleType, TracebackType
from typing import Any

import pluggy
import pytest

from repo_agent.sandbox.child.channel import Channel
from repo_agent.sandbox.child.compare import Comparisons
from repo_agent.sandbox.child.items import Items, function_of, shadowed
from repo_agent.sandbox.child.marks import Marks, code_of
from repo_agent.sandbox.child.origin import Origins
from repo_agent.sandbox.child.pristine import Pristine
from repo_agent.sandbox.child.wrap import end_of

FAMILY = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
WATCHED = frozenset(
    "pytest _pytest pluggy unittest json builtins importlib re io os posixpath genericpath functools operator math "
    "itertools collections contextlib difflib decimal fractions types copy codecs abc enum pathlib subprocess "
    "inspect".split()
)

RUNNING = ("pytest_pyfunc_call", "pytest_runtest")
"""Hooks by which a conftest may run tests in its own way."""


class Guard:
    """Watches one run of tests in this process. `work` is the workspace; `job` says what is the task's."""

    def __init__(self, channel: Channel, work: str, job: dict[str, Any]) -> None:
        self._channel, self._work = channel, work + os.sep
        self._pristine = frozenset(os.path.join(work, name) for name in job["pristine"])
        self._origins = Origins(self._work, self._pristine, job["comparing"])
        self._files = Pristine(self._work, job["pristine"], self._origins, self._fail, job["moves"])
        self._comparisons = Comparisons(self._fail, self._origins)
        self._marks = Marks(self._fail, self._files.is_own)
        self._items = Items(self._fail, self._files.says, self._files.is_own, self._origins)
        self._own, self._with_unittest = frozenset(job["own"]), job["unittest"]

    def install(self, more: Sequence[type]) -> None:
        """Load and change what is ours to change, before rights are given up."""
        if self._with_unittest:
            import unittest.mock  # noqa: F401
        for name in plugins():
            importlib.import_module(name)
        self._comparisons.install(self._with_unittest, self._pristine)
        self._files.install(self._comparisons.gives)
        for owner in (*more, Guard, Reserved, Comparisons, Origins, Pristine, Marks, Items):
            self._marks.note_class(owner)

    def begin(self) -> None:
        """Before tested code can load: load what the tests import from elsewhere, note all that may not change."""
        if self._files.says(">>>"):
            importlib.import_module("doctest")
        roots, path = {*WATCHED, "doctest"}, sys.path[:]
        sys.path[:] = [entry for entry in path if entry and not (entry + os.sep).startswith(self._work)]
        reserved = set(sys.stdlib_module_names) | {*FAMILY}
        late = set()
        for name, loads in self._files.imported():
            root = name.split(".")[0]
            if root not in self._own and (root in sys.modules or importlib.machinery.PathFinder.find_spec(root)):
                reserved.add(root)
                roots.add(root)
                if loads or root in sys.stdlib_module_names:
                    _load(name)
                late |= {root} - sys.modules.keys()
        self._files.expect(reserved - self._own)
        found = Reserved(reserved - self._own, sys.path[:], late - self._own, self._marks.note_modules)
        sys.meta_path.insert(0, found)
        sys.path[:] = path
        self._marks.note_modules(roots)
        self._marks.note_tables()

    def note_items(self, session: pytest.Session) -> None:
        """Once collected: the function of each test, and its code; all else is as it was."""
        self._items.note(session)
        self._files.check_files()
        self._files.check_folder()
        self._files.check_modules()
        self._marks.check()
        self._check_instances(session)
        for item in session.items:
            self._check_code(item)

    def begin_item(self) -> None:
        self._comparisons.ended.clear()

    def has_ended(self, item: pytest.Item) -> bool:
        """Whether a test's function came to its end; true where nobody can say, or the task runs tests its way."""
        code = self._code_of(item)
        if any(map(self._files.says, RUNNING)) or not self._origins.has(code):
            return True
        end = end_of(code.co_filename, code.co_firstlineno)
        return end in self._comparisons.ended or end not in self._comparisons.ends

    def check_item(self, item: pytest.Item, reporter: object) -> None:
        """Before and after a test: the few functions that every result passes through, and the test itself."""
        self._marks.check_core()
        self._items.check(item)
        space, watch = vars(getattr(item, "module", None) or ModuleType("none")), vars(reporter)
        held = (
            watch.get("channel") is self._channel and watch.get("watch") is self and type(watch.get("reports")) is list
        )
        if not held or self._comparisons.replaced_in(space) or shadowed(reporter):
            self._fail("the watch on the tests was replaced")
        self._files.check_modules()
        self._files.check_folder()
        policy = vars(sys.modules.get("asyncio.events", sys)).get("_event_loop_policy")
        if policy is not None and not self._origins.stands(type(policy)) and not self._files.says("olicy"):
            self._fail("asyncio was given another policy")
        self._check_instances(item.session)

    def check_object(self, item: pytest.Item) -> None:
        """Right after the call of a test, while its object is there."""
        self._items.check_object(item)

    def check(self, config: pytest.Config | None) -> None:
        """At the end: everything noted, and every hook."""
        self._marks.check()
        self._files.check_files()
        if config is not None:
            self._check_hooks(config.pluginmanager)

    def skipped_by_code(self, error: BaseException) -> bool:
        """Whether an exception is a skip that neither a library nor a place in the tests that says so has raised."""
        unittest = vars(sys.modules.get("unittest.case", sys))
        if not isinstance(error, (pytest.skip.Exception, pytest.xfail.Exception, unittest.get("SkipTest", ()))):
            return False
        last, trace = None, error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if not (self._marks.has_code(code) or (_of_runner(code.co_filename) and self._origins.is_library(code))):
                last = trace
            trace = trace.tb_next
        if last is None or self._origins.is_library(last.tb_frame.f_code):
            return False
        return not self._origins.has(last.tb_frame.f_code) or "skip" not in _words(last)

    def is_code(self, path: str) -> bool:
        """Whether a file is of the code under test."""
        return path.startswith(self._work) and path not in self._pristine

    def _fail(self, what: str) -> None:
        self._channel.close("tampered", what=what)

    def _check_code(self, item: pytest.Item) -> None:
        """A test that stands in a file of the task's runs the code that stands there, whatever decorates it."""
        code = function_of(item)[1]
        name = str(getattr(item, "originalname", "") or "")
        parents = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        if code is None or not self._files.defines(str(item.path), (parents or [name])[0]):
            return
        code = self._code_of(item)
        if not self._origins.has(code) and not self._origins.is_library(code):
            self._fail(f"{item.nodeid} does not run the code of its file")

    def _code_of(self, item: pytest.Item) -> Any:
        """The code of a test's function; where decorators are around it, of the first inside that is the task's."""
        function, code = function_of(item)
        while not self._origins.has(code) and (function := _inside(function)) is not None:
            code = code_of(function)
        return code

    def _check_instances(self, session: pytest.Session) -> None:
        """No object of pytest's has a method of its own put over its class's, and no hook is anything but a hook."""
        manager = session.config.pluginmanager
        for thing in (session, session.config, manager, pytest.mark, *sys.meta_path):
            if not isinstance(thing, type) and (name := shadowed(thing)):
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


def _of_runner(path: str) -> bool:
    return any(f"{os.sep}{room}{os.sep}" in path for room in ("_pytest", "unittest"))


def _words(trace: TracebackType) -> str:
    """What stands where a traceback's frame is, in small letters; xfail counts as a skip."""
    code = trace.tb_frame.f_code
    first, last, *_ = list(code.co_positions())[trace.tb_lasti // 2]
    try:
        with open(code.co_filename, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    first = first or trace.tb_lineno
    return "\n".join(lines[first - 1 : last or first]).lower().replace("xfail", "skip")


def _inside(function: object) -> object:
    """The function that a decorator, or hypothesis, has put this one around; None where it names none."""
    named = getattr(function, "__dict__", {})
    return named.get("__wrapped__") or getattr(named.get("hypothesis"), "inner_test", None)


class Reserved:
    """Finds the standard library, pytest and what tests import where they are, before the workspace is looked at.

    What tests import `late`, as they run, may be heavy: it is noted as it is loaded, whoever asks for it first.
    """

    def __init__(
        self, names: Collection[str], path: list[str], late: Collection[str], note: Callable[[Collection[str]], None]
    ) -> None:
        self._names, self._path, self._late, self._note = frozenset(names), path, frozenset(late), note

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if path is not None or name not in self._names:
            return None
        found = importlib.machinery.BuiltinImporter.find_spec(name)
        found = found or importlib.machinery.PathFinder.find_spec(name, self._path)
        if found is not None and found.loader is not None and name in self._late:
            found.loader = Noted(found.loader, self._note)  # type: ignore[assignment]
        return found


class Noted:
    """A module's loader that says when it has loaded it."""

    def __init__(self, loader: Any, note: Callable[[Collection[str]], None]) -> None:
        self._loader, self._note = loader, note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        below = f"{module.__name__}.testing"  # where numpy and others keep what tests judge by
        if importlib.util.find_spec(below) is not None:
            _load(below)
        self._note({module.__name__})
