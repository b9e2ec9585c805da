"""Whether a test went its way: its function came to its end, and nobody but the tests swallowed what it asserted."""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable
from typing import Any

from repo_agent.sandbox.child.origin import Origins
from repo_agent.sandbox.child.wrap import end_of

OF_GENERATORS = (contextlib._GeneratorContextManager, contextlib._AsyncGeneratorContextManager)
OF_C = (types.MethodDescriptorType, types.WrapperDescriptorType)
STACKS = (contextlib.ExitStack, contextlib.AsyncExitStack)


class Course:
    """What functions of the tests say as they run, by the calls that wrap.py puts there; `fail` does not return."""

    def __init__(self, fail: Callable[[str], None], origins: Origins) -> None:
        self._fail, self._origins = fail, origins
        self.ends: set[str] = set()
        """What the functions of the tests say at their ends."""
        self._ended: set[str] = set()
        self._local = threading.local()

    def given(self) -> dict[str, object]:
        """Names that a test file is given."""
        calls = {f"@{name}": getattr(self, name) for name in ("ended", "entered", "lost", "kept")}
        return {**calls, "@AssertionError": AssertionError}

    def ended(self, end: str) -> None:
        """A function has come to its end."""
        self._ended.add(end)

    def begin(self) -> None:
        """A test begins."""
        self._ended.clear()

    def has_ended(self, code: types.CodeType) -> bool:
        """Whether a function has, since `begin`; true of one that no test file defines in the open."""
        end = end_of(code.co_filename, code.co_firstlineno)
        return end in self._ended or end not in self.ends

    def entered(self) -> None:
        """The body of a `with` begins."""
        self._local.lost = False

    def lost(self) -> None:
        """An assertion leaves it."""
        self._local.lost = True

    def kept(self, *managers: object) -> None:
        """What follows it runs: an assertion that has left it was swallowed, which is for the tests to do."""
        lost, self._local.lost = getattr(self._local, "lost", False), False
        if lost and any(map(self._is_foreign, managers)):
            self._fail("a context manager of the code under test swallowed an assertion")

    def _is_foreign(self, manager: Any) -> bool:
        kind = type(manager)
        if kind in STACKS:  # it may hold anything
            return True
        if kind in OF_GENERATORS:
            code = getattr(manager.gen, "gi_code", None) or getattr(manager.gen, "ag_code", None)
            return not self._is_known(code)
        found = [
            vars(owner)[name] for owner in kind.__mro__ for name in ("__exit__", "__aexit__") if name in vars(owner)
        ]
        return not all(isinstance(one, OF_C) or self._is_known(getattr(one, "__code__", None)) for one in found)

    def _is_known(self, code: object) -> bool:
        return self._origins.has(code) or self._origins.is_library(code)
