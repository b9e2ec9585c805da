"""A test command as a user types it: pytest and unittest become test files and arguments for the grader's own pytest,
so that every test is reported; of any other command the exit code counts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from repo_agent.errors import UserError

OPERATORS = "|&;<>"
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_TAKES_VALUE = frozenset(
    "-k -m -c -o -p -W -r --maxfail --ignore --ignore-glob --deselect --durations --durations-min --tb --rootdir "
    "--override-ini --confcutdir --import-mode --color --log-level --log-format --basetemp --junitxml --junit-xml "
    "--capture --show-capture --config-file --verbosity --pythonwarnings --code-highlight".split()
)
"""Options of pytest whose value may be the next word."""
_IGNORED = frozenset("-v --verbose -q --quiet -b --buffer -c --catch --locals".split())
"""Options of unittest that change no verdict."""
UNITTEST_ONLY = ("-o", "python_functions=", "-o", "python_classes=")
"""pytest arguments by which it collects what unittest would, no bare functions and no plain classes."""


@dataclass(frozen=True, slots=True)
class TestCommand:
    """What a test command comes to; see the fields of the same names in `Task`."""

    __test__ = False  # pytest, on seeing the name

    tests: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    pythonpath: tuple[str, ...] = ()


def parse_command(text: str, files: Collection[str], where: str) -> TestCommand:
    """Read a test command for a repository of these files.

    Raises UserError for shell syntax, for paths that are not there, and for options that cannot be carried over.
    """
    words = _words(text, where)
    match words:
        case ["pytest" | "py.test", *rest]:
            return _pytest(rest, files, where)
        case [python, "-m", "pytest", *rest] if _is_python(python, where):
            return _pytest(rest, files, where)
        case [python, "-m", "unittest", *rest] if _is_python(python, where):
            return _unittest(rest, files, where)
    return TestCommand(command=tuple(words))


def _words(text: str, where: str) -> list[str]:
    """The words of a plain command; a shell's operators and variables need a shell."""
    try:
        words = shlex.split(text)
        lexer = shlex.shlex(text, posix=False, punctuation_chars=OPERATORS)
        lexer.whitespace_split = True
        bare = list(lexer)
    except ValueError as error:
        raise UserError(f"test_cmd {text!r} cannot be read ({error})", where, "Close the quotes") from error
    if not words:
        raise UserError("test_cmd is empty", where, "Leave it out for pytest")
    if any(set(word) <= set(OPERATORS) for word in bare) or re.match(r"\w+=", words[0]):
        remedy = f"No shell reads it; write sh -c {shlex.quote(text)}"
        raise UserError(f"test_cmd {text!r} has shell syntax", where, remedy)
    return words


def _is_python(word: str, where: str) -> bool:
    if "/" in word and _PYTHON.fullmatch(word.rpartition("/")[2]):
        remedy = f'Write python = "{word}", and just python in test_cmd'
        raise UserError(f"test_cmd names an interpreter, {word}", where, remedy)
    return bool(_PYTHON.fullmatch(word))


def _pytest(words: Sequence[str], files: Collection[str], where: str) -> TestCommand:
    """Options are passed on as they are; without a path pytest runs on the whole repository."""
    tests, args, rest = list[str](), list[str](), iter(words)
    for word in rest:
        if re.fullmatch(r"-n\w*|--numprocesses.*", word) and "-p" not in words:
            raise UserError(f"{word} in test_cmd is a plug-in's", where, "No plug-in is loaded: leave it out")
        if word in _TAKES_VALUE:
            args += [word, *[value for value in [next(rest, None)] if value is not None]]
        elif word.startswith("-"):
            args.append(word)
        else:
            tests.append(_path(word, files, where))
    return TestCommand(tuple(tests) or (".",), tuple(args))


def _path(word: str, files: Collection[str], where: str) -> str:
    """A test path of the repository, `::` and what follows kept."""
    path, mark, inside = word.partition("::")
    plain = path.removeprefix("./").rstrip("/") or "."
    if plain != "." and not any(name == plain or name.startswith(f"{plain}/") for name in files):
        raise UserError(f"test_cmd runs {path}, which is not in the repository", where, "Correct the path")
    return f"{plain}{mark}{inside}"


def _unittest(words: Sequence[str], files: Collection[str], where: str) -> TestCommand:
    """`python -m unittest`: no name, or `discover`, looks for test files; names become files and node ids."""
    fail_fast = [word for word in words if word in ("-f", "--failfast")]
    left = [word for word in words if word not in _IGNORED and word not in fail_fast]
    args = (*UNITTEST_ONLY, *["-x" for _ in fail_fast[:1]])
    if left and left[0] != "discover":
        names = tuple(_node(word, files, where) for word in left)
        return TestCommand(names, args)
    start, pattern, top = _discover(left[1:], where)
    start = _path(start, files, where)
    folder = _path(top, files, where) if top else start
    args = (*args, "-o", f"python_files={pattern}")
    return TestCommand((start,), args, pythonpath=() if folder == "." else (folder,))


def _discover(words: Sequence[str], where: str) -> tuple[str, str, str]:
    """Start folder, pattern and top folder of `discover`, given by option or by place."""
    given = {"s": "", "p": "", "t": ""}
    names = {"--start-directory": "s", "--pattern": "p", "--top-level-directory": "t", "-s": "s", "-p": "p", "-t": "t"}
    rest = iter(words)
    for word in rest:
        option, _, value = word.partition("=")
        free = next((key for key in given if not given[key]), None)
        if option in names:
            given[names[option]] = value or next(rest, "")
        elif word.startswith("-") or free is None:
            raise _no_such_option(word, where)
        else:
            given[free] = word
    return given["s"] or ".", given["p"] or "test*.py", given["t"]


def _node(word: str, files: Collection[str], where: str) -> str:
    """A file, or the dotted name of a package, module, class or method, as pytest takes it."""
    if word.startswith("-"):
        raise _no_such_option(word, where)
    if word.endswith(".py"):
        return _path(word, files, where)
    parts = word.split(".")
    for count in range(len(parts), 0, -1):
        path = "/".join(parts[:count])
        if f"{path}.py" in files:
            return "::".join([f"{path}.py", *parts[count:]])
        if count == len(parts) and f"{path}/__init__.py" in files:
            return path
    raise UserError(f"test_cmd runs {word}, which is not in the repository", where, "Correct the name")


def _no_such_option(word: str, where: str) -> UserError:
    remedy = "Write the command for pytest, or as sh -c '…', of which the exit code counts"
    return UserError(f"{word} of unittest has no counterpart here", where, remedy)


def looks_like_test(name: str) -> bool:
    """Whether a file is by its name a test, its data, or configuration of tests."""
    *folders, file = name.split("/")
    if file in ("conftest.py", "pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini"):
        return True
    return bool({"test", "tests"} & set(folders)) or any(fnmatchcase(file, p) for p in ("test_*.py", "*_test.py"))
