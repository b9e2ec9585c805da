"""The micro suite: generated repair tasks for the offline demo, within reach of a tiny model.

A task is a small tree with one short file that is wrong in one place. The goal says what to change (a tiny model cannot
find a bug) but not in which folder the file lies. Every folder, module and function has a name of its own, from the
pool that the tiny base model never saw; no name occurs in two tasks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from repo_agent.tasks.names import NamePool
from repo_agent.tasks.task import Suite, Task

TASKS = 48
_COMMON_FOLDERS = ("src", "lib", "app")


@dataclass(frozen=True)
class Program:
    """A function of a few lines, its wrong twin, and inputs on which the two differ."""

    name: str
    right: str
    old: str
    """The wrong snippet; occurs once in the wrong text."""
    new: str
    """The right snippet that stands in its place."""
    cases: tuple[tuple[Any, ...], ...]

    @property
    def wrong(self) -> str:
        return self.right.replace(self.new, self.old)

    def call(self, text: str, args: tuple[Any, ...]) -> Any:
        """The value of the function in `text`, a program of this module's own making."""
        scope: dict[str, Any] = {}
        exec(text, scope)
        return scope[self.name](*args)


def micro_suite(seed: int = 0) -> Suite:
    """`TASKS` tasks, fixed by the seed."""
    rng = random.Random(f"micro {seed}")
    pool = NamePool(rng, suite=True)
    tasks = tuple(make_task(rng, pool, f"micro{seed}-{number:02d}") for number in range(TASKS))
    return Suite(f"micro={seed}", tasks)


def make_task(rng: random.Random, pool: NamePool, prefix: str) -> Task:
    """One task with fresh names from the pool."""
    program = make_program(rng, pool.draw())
    module = pool.draw()
    folder = _folder(rng, pool)
    path = "/".join([*folder, f"{module}.py"])
    test_path = f"tests/test_{module}.py"
    files = {path: program.wrong, test_path: _test_text(program, ".".join([*folder, module]))}
    for _ in range(rng.choice((0, 1, 1))):
        decoy = make_program(rng, pool.draw())
        files["/".join([*rng.choice((folder, folder[:1], _folder(rng, pool))), f"{pool.draw()}.py"])] = decoy.right
    goal = rng.choice(_GOALS).format(file=f"{module}.py", function=program.name, old=program.old, new=program.new)
    return Task(
        id=f"{prefix}-{module}",
        goal=goal,
        files=dict(sorted(files.items())),
        tests=(test_path,),
        pristine=(test_path,),
        fix={path: program.right},
    )


def make_program(rng: random.Random, name: str) -> Program:
    """A random small program whose wrong twin gives another value on every case."""
    while True:
        program = rng.choice(_SHAPES)(rng, name)
        if program.right.count(program.new) != 1 or program.wrong.count(program.old) != 1:
            continue
        cases = [case for case in program.cases if _differs(program, case)]
        if cases:
            return Program(name, program.right, program.old, program.new, tuple(cases[: rng.randint(1, 2)]))


_GOALS = (
    "In {file}, {function} must use `{new}` instead of `{old}`.",
    "{function} in {file} is wrong: replace `{old}` with `{new}`.",
    "The tests of {file} fail. Change `{old}` to `{new}` in {function}.",
    "Fix {file}: `{old}` should be `{new}`.",
)


def _folder(rng: random.Random, pool: NamePool) -> tuple[str, ...]:
    shape = rng.randrange(6)
    if shape < 2:
        return (rng.choice(_COMMON_FOLDERS), pool.draw())
    return (pool.draw(), pool.draw()) if shape == 2 else (pool.draw(),)


def _test_text(program: Program, module: str) -> str:
    lines = [f"from {module} import {program.name}", "", "", f"def test_{program.name}():"]
    for case in program.cases:
        args = ", ".join(repr(value) for value in case)
        lines.append(f"    assert {program.name}({args}) == {program.call(program.right, case)!r}")
    return "\n".join(lines) + "\n"


def _differs(program: Program, case: tuple[Any, ...]) -> bool:
    return bool(program.call(program.right, case) != program.call(program.wrong, case))


def _two(rng: random.Random, options: tuple[str, ...]) -> tuple[str, str]:
    first, second = rng.sample(options, 2)
    return first, second


def _numbers(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randint(2, 9) for _ in range(count))


def _pairs(rng: random.Random, count: int) -> tuple[tuple[Any, ...], ...]:
    return tuple(_numbers(rng, count) for _ in range(4))


def _parameters(rng: random.Random) -> tuple[str, str]:
    return rng.choice((("a", "b"), ("x", "y"), ("left", "right"), ("first", "last"), ("low", "high")))


def _operator(rng: random.Random, name: str) -> Program:
    a, b = _parameters(rng)
    new, old = _two(rng, ("+", "-", "*"))
    text = f"def {name}({a}, {b}):\n    return {a} {new} {b}\n"
    return Program(name, text, f"{a} {old} {b}", f"{a} {new} {b}", _pairs(rng, 2))


def _constant(rng: random.Random, name: str) -> Program:
    a, b = _parameters(rng)
    new, old = rng.sample(range(2, 10), 2)
    outer = rng.choice(("+", "-"))
    text = f"def {name}({a}, {b}):\n    size = {a} * {new}\n    return size {outer} {b}\n"
    return Program(name, text, f"{a} * {old}", f"{a} * {new}", _pairs(rng, 2))


def _comparison(rng: random.Random, name: str) -> Program:
    a = rng.choice(("n", "x", "value", "count", "age"))
    new, old = _two(rng, ("<", ">", "=="))
    bound, yes, no = rng.randint(3, 7), *rng.sample(range(10), 2)
    text = f"def {name}({a}):\n    if {a} {new} {bound}:\n        return {yes}\n    return {no}\n"
    cases = ((bound,), (bound - 1,), (bound + 2,))
    return Program(name, text, f"{a} {old} {bound}", f"{a} {new} {bound}", cases)


def _chosen(rng: random.Random, name: str) -> Program:
    a, b = _parameters(rng)
    new, old = _two(rng, ("max", "min", "sum"))
    inside = f"({a}, {b})" if "sum" not in (new, old) else f"([{a}, {b}])"
    text = f"def {name}({a}, {b}):\n    return {new}{inside}\n"
    return Program(name, text, old + inside, new + inside, _pairs(rng, 2))


def _order(rng: random.Random, name: str) -> Program:
    a, b = _parameters(rng)
    brackets = rng.choice(("[]", "()"))
    new, old = (f"{brackets[0]}{p}, {q}{brackets[1]}" for p, q in ((b, a), (a, b)))
    text = f"def {name}({a}, {b}):\n    pair = {new}\n    return pair\n"
    return Program(name, text, old, new, _pairs(rng, 2))


def _loop(rng: random.Random, name: str) -> Program:
    item = rng.choice(("x", "n", "item"))
    new, old = _two(rng, ("+", "-", "*"))
    by, start = rng.randint(2, 5), rng.choice((0, 1))
    text = (
        f"def {name}(items):\n    total = {start}\n    for {item} in items:\n"
        f"        total += {item} {new} {by}\n    return total\n"
    )
    cases = tuple((list(_numbers(rng, 3)),) for _ in range(3))
    return Program(name, text, f"{item} {old} {by}", f"{item} {new} {by}", cases)


def _string(rng: random.Random, name: str) -> Program:
    new, old = _two(rng, ("upper", "lower", "title", "strip", "swapcase"))
    text = f"def {name}(text):\n    text = text.{new}()\n    return text\n"
    cases = (("aB c",), (" Ok a",), ("xY",))
    return Program(name, text, f"text.{old}()", f"text.{new}()", cases)


_SHAPES: tuple[Callable[[random.Random, str], Program], ...] = (
    _operator,
    _constant,
    _comparison,
    _chosen,
    _order,
    _loop,
    _string,
)
