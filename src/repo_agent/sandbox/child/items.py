"""What pytest is going to run: each test's function, marks, parameters and fixtures, as they were collected."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest

from repo_agent.sandbox.child.marks import code_of, same, state_of
from repo_agent.sandbox.child.origin import Origins

SKIPPING = ("skip", "skipif", "xfail")
OF_UNITTEST = ("__unittest_skip__", "__unittest_expecting_failure__")
"""Marks by which a test is skipped, or may fail: pytest's, and attributes of unittest's."""


class Items:
    """`fail` does not return; `says(word)`: whether the task's own tests use a word; `is_own(value, name)`: whether
    they put a value in the place of `name`."""

    def __init__(
        self,
        fail: Callable[[str], None],
        says: Callable[[str], bool],
        is_own: Callable[[object, str], bool],
        origins: Origins,
    ) -> None:
        self._fail, self._says, self._is_own, self._origins = fail, says, is_own, origins
        self._items: dict[pytest.Item, tuple[object, Any, list[object]]] = {}
        self._fixtures: list[tuple[Any, object, Any]] = []

    def note(self, session: pytest.Session) -> None:
        self._items = {item: _noted(item) for item in session.items}
        infos = [info for item in session.items if (info := getattr(item, "_fixtureinfo", None))]
        found = {id(one): one for info in infos for some in info.name2fixturedefs.values() for one in some}
        self._fixtures = [(one, one.func, state_of(one.func)) for one in found.values()]

    def check(self, item: pytest.Item) -> None:
        """Before and after a test."""
        function, state, marks = _noted(item)
        noted = self._items.get(item)
        if noted is None or noted[0] is not function or not same(noted[1], state) or shadowed(item):
            self._fail(f"{item.nodeid} is not the test that was collected")
        elif not same(noted[2], marks) and not self._says("add_marker") and not self._says("applymarker"):
            self._fail(f"{item.nodeid} was marked")
        for fixture, function, state in self._fixtures:
            now = fixture.func  # plug-ins for asynchronous tests wrap it
            held = same(state, state_of(function)) if now is function else self._origins.is_library(code_of(now))
            if not held:
                self._fail(f"the fixture {fixture.argname} was replaced")
        if self._is_traced() and not any(map(self._says, ("settrace", "setprofile", "monitoring"))):
            self._fail("the tests are traced")

    def check_object(self, item: pytest.Item) -> None:
        """After a test: the object of its class has no other methods than its class."""
        thing = vars(item).get("_instance")
        name = shadowed(thing) if thing is not None else ""
        if name and not self._is_own(vars(thing)[name], name):
            self._fail(f"{name} of a {type(thing).__name__} was replaced")

    def _is_traced(self) -> bool:
        """Whether a function, and no library's, is called at each step of a thread: it can change what a test holds."""
        monitoring = getattr(sys, "monitoring", None)
        tools = [monitoring.get_tool(number) for number in range(6)] if monitoring else []
        hooks: list[Any] = [sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()]
        called = [hook if code_of(hook) is not None else type(hook).__call__ for hook in hooks if hook]
        ours = any(code_of(one) is not None and not self._origins.is_library(code_of(one)) for one in called)
        bound = [type(hook.__self__) for hook in hooks if isinstance(hook, MethodType)]
        ours = ours or not all(map(self._origins.stands, bound))
        return ours or any(tool not in (None, "coverage") for tool in tools)


def shadowed(thing: object) -> str:
    """A function of an object's class that the object itself has another of."""
    own = getattr(thing, "__dict__", None) or {}
    for name, value in own.items():
        if callable(value) and any(callable(vars(owner).get(name)) for owner in type(thing).__mro__):
            return str(name)
        if name == "parametrize":  # pytest.mark makes its marks by __getattr__
            return str(name)
    return ""


def function_of(item: pytest.Item) -> tuple[object, object]:
    """A test's function, without what it is bound to, and its code."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    return function, code_of(function)


def expects_failure(item: pytest.Item) -> bool:
    """Whether a mark of a test's says that it may fail."""
    marked = (function_of(item)[0], getattr(item, "cls", None))
    return item.get_closest_marker("xfail") is not None or any(getattr(thing, OF_UNITTEST[1], None) for thing in marked)


def _noted(item: pytest.Item) -> tuple[object, Any, list[object]]:
    function, owner = function_of(item)[0], getattr(item, "cls", None)
    marks: list[object] = [mark for mark in item.iter_markers() if mark.name in SKIPPING]
    marks += [getattr(thing, name, None) or False for thing in (function, owner) for name in OF_UNITTEST]
    call = getattr(item, "callspec", None)
    return function, state_of(function), [type(item), *marks, *(call.params.values() if call else ())]
