"""The task's own files while its tests run: loaded as they were given, and their modules hold what their source put in.

A file that was changed on disk, a module that another stands in for, a name that tested code put into a test module or
took the place of there: each makes a run `tampered`.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import _pytest.assertion.rewrite as rewrite

from repo_agent.sandbox.child.marks import METHODS, same, state_of
from repo_agent.sandbox.child.origin import Origins, is_passed_over
from repo_agent.sandbox.child.source import (
    binds_unseen,
    bound_by,
    modules_of,
    rebound,
    stored,
    text_of,
    top_level,
    tree_of,
)

OF_MODULES = frozenset(
    "__name__ __doc__ __package__ __loader__ __spec__ __path__ __file__ __cached__ __builtins__ __annotations__ "
    "__warningregistry__ __annotate__ __annotate_func__ __conditional_annotations__".split()
)
MOVES = ("chdir", "as_cwd", "isolated_filesystem")
"""What changes the working folder, by the system's name and by those of libraries for tests."""
FIXED = frozenset({"__builtins__", "__file__"})
OF_HOOKS = frozenset(
    "pytestmark pytest_generate_tests pytest_plugins setup_module teardown_module setup_function teardown_function "
    "setUpModule tearDownModule load_tests".split()
)
"""Names by which pytest takes what a module holds for more than data."""
OF_PYTEST = frozenset({"@py_builtins", "@pytest_ar", "__pytest_setup_module", "__pytest_setup_function"})


class Pristine:
    """`names` are relative to `work`, which ends in a separator; `fail` does not return; `moves`: the program that
    these files test changes the working folder."""

    def __init__(
        self, work: str, names: Collection[str], origins: Origins, fail: Callable[[str], None], moves: bool
    ) -> None:
        self._work, self._origins, self._fail = work, origins, fail
        self._hashes = {work + name: _hash(work + name) for name in names}
        self._stems = {os.path.splitext(os.path.basename(name))[0] for name in names if name.endswith(".py")}
        self._trees = {path: tree_of(path) for path in self._hashes if path.endswith(".py")}
        self._text = "\n".join(text_of(path) for path in self._hashes)
        self._moves = moves or any(word in self._text for word in MOVES)
        self._loaded: dict[ModuleType, dict[str, object]] = {}
        self._names: dict[ModuleType, frozenset[str]] = {}
        self._states: list[tuple[str, object, Any]] = []
        self._classes: dict[type, dict[str, object]] = {}
        self._helpers: set[str] = set()
        self._rebound = {name for tree in self._trees.values() for name in rebound(tree)}
        self._given: Callable[[str], bool] = lambda name: False
        self._getcwd = os.getcwd

    def imported(self) -> Iterator[tuple[str, bool]]:
        """Modules that these files import, and whether that is as they load; `np.testing` is one too."""
        for tree in self._trees.values():
            top = set(top_level(tree))
            inside = {
                (a.value.id, a.attr)
                for a in ast.walk(tree)
                if isinstance(a, ast.Attribute) and isinstance(a.value, ast.Name)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        yield alias.name, node in top
                        below = [part for name, part in inside if name == (alias.asname or alias.name)]
                        yield from ((f"{alias.name}.{part}", node in top) for part in sorted(below))
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module, node in top

    def expect(self, elsewhere: Collection[str]) -> None:
        """What these files import and is one of them, is loaded from its file; `elsewhere`: names that lead outside."""
        for path, tree in self._trees.items():
            for name in {*modules_of(tree)}:
                folders = (os.path.dirname(path) + os.sep, self._work)
                places = [
                    f + name.replace(".", os.sep) + end for f in folders for end in (".py", os.sep + "__init__.py")
                ]
                first = next(filter(os.path.exists, places), "")
                if first in self._hashes and name.split(".")[0] not in elsewhere:
                    self._helpers.add(name)

    def install(self, given: Callable[[str], bool]) -> None:
        """Let pytest load these files, helpers too, from the source that was given; `given` are names of ours."""
        self._given = given
        hook: Any = rewrite.AssertionRewritingHook
        bails, should, execute = hook._early_rewrite_bailout, hook._should_rewrite, hook.exec_module
        rewritten = rewrite._rewrite_test

        def _early_rewrite_bailout(hook: Any, name: str, state: Any) -> bool:
            return (
                name.rpartition(".")[2] not in self._stems
                and "__init__" not in self._stems
                and bails(hook, name, state)
            )

        def _should_rewrite(hook: Any, name: str, path: str, state: Any) -> bool:
            return path in self._hashes or should(hook, name, path, state)

        def exec_module(hook: Any, module: ModuleType) -> None:
            execute(hook, module)
            self._note(module)

        def _rewrite_test(path: Path, config: Any) -> Any:
            self._check_file(str(path))
            result = rewritten(path, config)
            self._check_file(str(path))
            if str(path) in self._hashes:
                self._origins.note(result[1])
            return result

        for function in (_early_rewrite_bailout, _should_rewrite, exec_module):
            setattr(hook, function.__name__, function)
        vars(rewrite).update(_rewrite_test=_rewrite_test, _read_pyc=lambda *_: None)

    def defines(self, path: str, name: str) -> bool:
        """Whether a file of the task's defines a function or class of this name at its top."""
        tree = self._trees.get(path)
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return tree is not None and any(isinstance(node, kinds) and node.name == name for node in top_level(tree))

    def check_files(self) -> None:
        for path in self._hashes:
            self._check_file(path)

    def check_folder(self) -> None:
        """The working folder, by which tests find their data, is where it was, unless the task itself changes it."""
        if not self._moves and self._folder() != self._work.rstrip(os.sep):
            self._fail("the working folder was changed")

    def says(self, word: str) -> bool:
        """Whether a word stands in these files."""
        return word in self._text

    def check_modules(self) -> None:
        """Modules and classes hold what they held once loaded, but for what the tests change; modules no new name."""
        for module, before in self._loaded.items():
            space = vars(module)
            for name, value in before.items():
                now = space.get(name)
                fixed = is_passed_over(type(value)) or (name not in self._rebound and name not in OF_MODULES - FIXED)
                if now is not value and fixed and not self.is_own(now, name):
                    self._fail(f"{name} of {module.__name__} was replaced")
            for name in space.keys() - before.keys():
                self._check_name(module, name)

        for name in self._helpers & sys.modules.keys():
            helper = sys.modules[name]
            if not isinstance(helper, ModuleType) or helper not in self._loaded:
                self._fail(f"{name} is not the module of its file")
        for name, function, state in self._states:
            if not same(state, state_of(function)):
                self._fail(f"{name} was changed")
        for owner, before in self._classes.items():
            self._check_class(owner, before)

    def _check_class(self, owner: type, before: Mapping[str, object]) -> None:
        """A class of the tests has its methods, and none in the place of one that it inherits."""
        for name, now in list(vars(owner).items()):
            value = before.get(name)
            if now is value or name in self._rebound or self.is_own(now, name):
                continue
            inherits = any(name in vars(above) for above in owner.__mro__[1:])
            if isinstance(value, METHODS) or (callable(now) and inherits):
                self._fail(f"{name} of {owner.__name__} was replaced")

    def _folder(self) -> str:
        try:
            return self._getcwd()
        except OSError:
            return ""

    def _check_file(self, path: str) -> None:
        if path in self._hashes and _hash(path) != self._hashes[path]:
            self._fail(f"{path[len(self._work) :]} was changed while the tests ran")

    def _note(self, module: ModuleType) -> None:
        path = str(getattr(module.__spec__, "origin", ""))
        tree = self._trees.get(path)
        if tree is None:
            return
        stars = any(map(binds_unseen, ast.walk(tree)))
        self._names[module] = frozenset(stored(compile(tree, path, "exec", dont_inherit=True)))
        for name in vars(module):
            if not stars or (name in OF_HOOKS and not self.says(name)):
                self._check_name(module, name)
        held = vars(module).get("__builtins__")
        if (held is not builtins and held is not vars(builtins)) or vars(module).get("__file__") != path:
            self._fail(f"{module.__name__} was given other builtins, or another file")
        self._check_imports(module, tree)
        self._loaded[module] = dict(vars(module))
        for name, value in vars(module).items():
            if issubclass(type(value), type) and value.__module__ == module.__name__:
                self._classes[value] = dict(vars(value))
                self._states += [(f"{name}.{n}", v, s) for n, v in vars(value).items() if (s := state_of(v))]
            elif type(value) is FunctionType and value.__module__ == module.__name__ and (state := state_of(value)):
                self._states.append((name, value, state))

    def _check_name(self, module: ModuleType, name: str) -> None:
        """A name that is in a module comes from its source, is made by it, or is a module below it."""
        value = vars(module)[name]
        known = name in self._names[module] or name in OF_MODULES or name in OF_PYTEST or self._given(name)
        if not known and value is not sys.modules.get(f"{module.__name__}.{name}") and not self.is_own(value, name):
            self._fail(f"{name} was put into {module.__name__}")

    def _check_imports(self, module: ModuleType, tree: ast.Module) -> None:
        """What an import statement bound, and nothing else did, is what was imported."""
        bound = [name for node in ast.walk(tree) for name in bound_by(node)]
        for node in top_level(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                if alias.name == "*" or bound.count(name) != 1:
                    continue
                if isinstance(node, ast.Import):
                    there = sys.modules.get(alias.name if alias.asname else name)
                elif node.level or node.module is None:
                    continue
                else:
                    place = sys.modules.get(node.module)
                    if str(getattr(place, "__file__", None) or "").startswith(self._work):
                        continue
                    there = getattr(place, "__dict__", {}).get(alias.name)
                if there is not None and vars(module).get(name) is not there:
                    self._fail(f"{name} of {module.__name__} is not what it imports")

    def is_own(self, value: object, name: str) -> bool:
        """Whether these files put a value in the place of `name`: by a function of their own, or by patching it."""
        function = getattr(value, "__func__", value) if type(value) is MethodType else value
        if isinstance(function, FunctionType) and self._origins.has(function.__code__):
            return True
        patches = any(word in self._text for word in ("patch", "setattr", "globals"))
        return patches and re.search(rf"""["'.]{re.escape(name)}["']""", self._text) is not None


def _hash(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read()).digest()
    except OSError:
        return b""
