"""A tool's arguments against its JSON Schema, whoever wrote it, at a bounded cost.

Schemas come with other agents' traces, values from models. What would take too long to check is *unchecked*: told to
the caller, who counts it, and never the model's fault. So every keyword draws on a budget of steps, a `pattern` is
tried where it can take only so many, nothing is fetched over the network, and no subschema's `$schema` changes the
rules.

Differs from the specification in one thing: 5.0 is no integer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any

import jsonschema
import jsonschema.validators
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from repo_agent.messages import nesting
from repo_agent.tools.certain import Test, certain
from repo_agent.tools.dialect import (
    VALUES,
    check_references,
    closed,
    declared,
    dialect,
    has_quick_check,
    unexpected,
    without_dialects,
)
from repo_agent.tools.patterns import pattern_fault, steps

LEAST_STEPS, STEPS_PER_NODE, MAX_STEPS = 20_000, 20, 400_000
"""Of the check of one call, by the number of values in it: keywords tried, each with the size of what it iterates."""
MAX_PATTERN_STEPS = 3_000_000
MAX_NODES, MAX_LEVELS = 2_000, 40
"""Values in a schema, and how deep they are nested; a larger schema is not checked by."""
MAX_PATH_CHARS, MAX_PATH_PARTS = 1_000, 64
_PER_ERROR, _PATTERN_STEPS_PER_STEP = 20, 100
_ITERATE = frozenset("additionalProperties unevaluatedProperties unevaluatedItems uniqueItems propertyNames".split())
"""Keywords that go through a value without trying another keyword on each part of it."""


def lexical_fault(rel: str) -> str | None:
    """Why a relative path is refused by its text alone, or None."""
    if "\0" in rel or not _is_utf8(rel):
        return "a path is plain text without NUL"
    if len(rel) > MAX_PATH_CHARS or rel.count("/") >= MAX_PATH_PARTS:
        return f"a path has at most {MAX_PATH_CHARS:,} characters and {MAX_PATH_PARTS} parts"
    if rel.startswith("/") or "\\" in rel:
        return "a path is relative to the repository root and uses /"
    if ".." in rel.split("/"):
        return "a path may not contain .."
    return None


FORMATS: Mapping[str, Test] = {
    "relative-path": lambda value: not isinstance(value, str) or lexical_fault(value) is None,
    "regex": lambda value: not isinstance(value, str) or pattern_fault(value) is None,
}
"""The formats that are checked: our own tools'."""


@dataclass
class _Budget:
    left: int
    unchecked: set[str] = field(default_factory=set)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _SpentError


class _SpentError(Exception):
    """The budget is used up."""


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


def schema_of(schema: Any) -> ArgumentSchema:
    """The ArgumentSchema of a schema, made once: every conversation of an agent brings the same tools, and making one
    takes milliseconds. Raises what it raises."""
    return _made(json.dumps(schema)) if nesting(schema) <= MAX_LEVELS else ArgumentSchema(schema)


@lru_cache(1_000)
def _made(text: str) -> ArgumentSchema:
    return ArgumentSchema(json.loads(text))


class ArgumentSchema:
    """The schema of one tool's arguments. Raises jsonschema.SchemaError for what is not a schema, and BadSchemaError
    for a reference that leads nowhere, or a `$schema` that is no URL."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._known = nesting(schema) <= MAX_LEVELS and _nodes(schema, MAX_NODES) <= MAX_NODES
        if not self._known:
            return
        formats, kind = jsonschema.FormatChecker(formats=()), dialect(schema)
        try:
            kind.check_schema(schema, format_checker=formats)
        except RecursionError:
            self._known = False
            return
        plain, self._closes = closed(without_dialects(schema))
        check_references(plain, kind)
        for name, test in FORMATS.items():
            formats.checks(name)(test)
        validator, quick = _validator_type(kind), has_quick_check(kind) and not self._closes
        self._certain = certain(plain, frozenset(validator.VALIDATORS), FORMATS) if quick else None
        self._validator = validator(plain, format_checker=formats, registry=EMPTY_REGISTRY)
        self._declared = declared(plain) if self._closes else frozenset[str]()
        self._of_names = "|".join(_name_patterns(plain))
        alone = sum(name == "required" for name in _names(plain)) == 1
        required = plain.get("required") if alone and isinstance(plain, dict) else None
        self._required = tuple(required) if isinstance(required, list) else ()
        """What must be there, where no part of the schema asks for anything else: then a missing one is the best
        error, whatever else is wrong."""

    def check(self, value: Any, better: Callable[[Any, Any], Any]) -> tuple[Any, frozenset[str]]:
        """The best error of a value, as `better(best so far or None, error)` has it, or None; and what was not checked:
        keywords, `steps` where the budget was used up, `schema` where it is too large."""
        if not self._known:
            return None, frozenset({"schema"})
        try:
            if self._certain is not None and self._certain(value):
                return None, frozenset()
        except RecursionError:
            pass
        if type(value) is dict and any(name not in value for name in self._required):
            return _missing(self._required, value), frozenset()
        budget, best = _Budget(_steps_for(value)), None
        if self._of_names and not _affordable(self._of_names, max(map(len, _names(value)), default=0)):
            return None, frozenset({"patternProperties"})
        token = _BUDGET.set(budget)
        try:
            for error in self._errors(value):
                best = better(best, error)
                budget.spend(_PER_ERROR)
        except _SpentError:
            budget.unchecked.add("steps")
        except (Unresolvable, jsonschema.exceptions._WrappedReferencingError, RecursionError):
            budget.unchecked.add("$ref")
        finally:
            _BUDGET.reset(token)
        return best, frozenset(budget.unchecked)

    def _errors(self, value: Any) -> Iterator[Any]:
        """Those of the schema. An argument that it knows is unexpected only where nothing else is wrong: a part of the
        schema that does not fit names none."""
        good = True
        for error in self._validator.iter_errors(value):
            good = False
            yield error
        if self._closes and type(value) is dict and (good or not self._declared.issuperset(value)):
            yield from unexpected(self._validator, value, self._declared)


def _missing(required: tuple[str, ...], value: dict[str, Any]) -> Any:
    return jsonschema.ValidationError(
        "a required property is missing", validator="required", validator_value=list(required), instance=value
    )


@cache
def _validator_type(base: Any) -> Any:
    own = {"pattern": _pattern, "uniqueItems": _unique_items}
    keywords = {name: partial(_counted, name, own.get(name, keyword)) for name, keyword in base.VALIDATORS.items()}
    types = base.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(base, keywords, type_checker=types)


def _counted(name: str, keyword: Any, validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    _BUDGET.get().spend(1 + _size(value) + (_size(instance) if name in _ITERATE else 0))
    try:
        yield from keyword(validator, value, instance, schema) or ()
    except OverflowError:  # an integer that is too large to divide
        _BUDGET.get().unchecked.add(name)


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, str):
        return
    if not _affordable(pattern, len(instance)):
        _BUDGET.get().unchecked.add("pattern")
    elif not re.search(pattern, instance):
        yield jsonschema.ValidationError("does not match the pattern")


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if unique and isinstance(instance, list):
        keys = [_key(item) for item in instance]
        if len(set(keys)) < len(keys):
            yield jsonschema.ValidationError("has an item twice")


def _affordable(pattern: str, length: int) -> bool:
    """Whether a search in a text of that length ends soon; what Python's `re` does not take is never tried."""
    if pattern_fault(pattern) or not _compiles(pattern):
        return False
    count = steps(pattern, length)
    budget = _BUDGET.get(None)
    if budget and count <= MAX_PATTERN_STEPS:
        budget.spend(count // _PATTERN_STEPS_PER_STEP)
    return count <= MAX_PATTERN_STEPS


@cache
def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _key(value: Any) -> Any:
    """Equal exactly for equal JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((name, _key(item)) for name, item in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_key, value))
    return ("boolean", value) if isinstance(value, bool) else value


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


def _steps_for(value: Any) -> int:
    most = MAX_STEPS // STEPS_PER_NODE
    return min(LEAST_STEPS + STEPS_PER_NODE * _nodes(value, most), MAX_STEPS)


def _nodes(value: Any, most: int) -> int:
    """How many values there are in a value; it stops to count past `most`."""
    count, waiting = 0, [value]
    while waiting and count <= most:
        one = waiting.pop()
        count += 1
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return count


def _names(value: Any) -> Iterator[str]:
    """Every name of every object in a value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _name_patterns(schema: Any) -> Iterator[str]:
    """The patterns of every `patternProperties`, wherever it is."""
    if isinstance(schema, dict):
        own = schema.get("patternProperties")
        yield from own if isinstance(own, dict) else ()
        for name, one in schema.items():
            if name not in VALUES:
                yield from _name_patterns(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from _name_patterns(one)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
