"""The quick half of the check of a call: a predicate that says "certainly valid" for ordinary schemas, in microseconds.

Where it says no, or a schema uses anything beyond the keywords below, jsonschema is asked (`schema.py`). Its cost is
linear in the value: no keyword here tries one value in more than one way, but `anyOf` over schemas that look no deeper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Test = Callable[[Any], bool]
_ABSENT = object()
_PLAIN = frozenset(
    "type enum const minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength format".split()
)
"""Keywords that look at a value alone, not into it."""
_TYPES: Mapping[str, Test] = {
    "string": lambda value: type(value) is str,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) is int or type(value) is float,
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
}


class Unsupported(Exception):
    """A schema that is left to jsonschema."""


def certain(schema: Any, keywords: frozenset[str], formats: Mapping[str, Test]) -> Test | None:
    """The predicate of a schema; None where there is none.

    `keywords`: those that mean something to the validator, all others are notes. `formats`: those that are checked.
    """
    try:
        return _Compiler(schema, keywords, formats).test(schema)
    except (Unsupported, RecursionError, TypeError, AttributeError, LookupError):
        return None


class _Compiler:
    def __init__(self, root: Any, keywords: frozenset[str], formats: Mapping[str, Test]) -> None:
        self._root, self._keywords, self._formats = root, keywords, formats
        self._named: dict[str, Test] = {}

    def test(self, schema: Any, only: frozenset[str] | None = None) -> Test:
        """All keywords of a schema; with `only`, no other than those."""
        if schema is True:
            return lambda value: True
        if not isinstance(schema, dict) or ("$ref" in schema and "$id" in self._root):
            raise Unsupported
        names = [name for name in schema if name in self._keywords]
        if only is not None and not only.issuperset(names):
            raise Unsupported
        tests = [test for name in names if (test := self._keyword(name, schema)) is not None]
        if len(tests) == 1:
            return tests[0]

        def every(value: Any) -> bool:
            for test in tests:  # noqa: SIM110  all() takes twice as long
                if not test(value):
                    return False
            return True

        return every

    def _keyword(self, name: str, schema: dict[str, Any]) -> Test | None:
        value = schema[name]
        if name == "type":
            return self._type(value)
        if name in ("properties", "required", "additionalProperties"):
            return self._object(schema) if name == next(key for key in schema if key in _OBJECT) else None
        if name == "items":
            item = self.test(value)
            return lambda given: type(given) is not list or all(map(item, given))
        if name == "anyOf":
            tests = [self.test(one, _PLAIN) for one in value]
            return lambda given: any(test(given) for test in tests)
        if name == "format":
            return self._formats.get(value)
        if name == "$ref":
            return self._reference(value)
        return _bound(name, value)

    def _type(self, value: Any) -> Test:
        names = [value] if isinstance(value, str) else value
        if not set(names) <= set(_TYPES):
            raise Unsupported
        if len(names) == 1:
            return _TYPES[names[0]]
        tests = [_TYPES[name] for name in names]
        return lambda given: any(test(given) for test in tests)

    def _object(self, schema: dict[str, Any]) -> Test:
        tests = {name: self.test(one) for name, one in schema.get("properties", {}).items()}
        required, rest = tuple(schema.get("required", ())), schema.get("additionalProperties", True)
        if not isinstance(rest, bool):
            raise Unsupported

        def check(value: Any) -> bool:
            if type(value) is not dict:
                return True
            for name in required:
                if name not in value:
                    return False
            for name, given in value.items():
                test = tests.get(name, _ABSENT)
                if test is _ABSENT:
                    if not rest:
                        return False
                elif not test(given):  # type: ignore[operator]
                    return False
            return True

        return check

    def _reference(self, value: str) -> Test:
        """A schema by its place in `$defs`; it may hold itself."""
        head, _, name = value.rpartition("/")
        if head not in ("#/$defs", "#/definitions") or "~" in name or "%" in name:
            raise Unsupported
        if value not in self._named:
            self._named[value] = lambda given: self._named[value](given)
            self._named[value] = self.test(self._root[head[2:]][name])
        return lambda given: self._named[value](given)


_OBJECT = ("properties", "required", "additionalProperties")


def _bound(name: str, value: Any) -> Test:
    """Keywords that hold one bound, or the texts that a value may be."""
    if name in ("enum", "const"):
        values = value if name == "enum" else [value]
        if not all(type(one) is str for one in values):
            raise Unsupported
        texts = frozenset(values)
        return lambda given: type(given) is str and given in texts
    if type(value) not in (int, float):
        raise Unsupported
    number = (int, float)
    tests: dict[str, Test] = {
        "minimum": lambda given: type(given) not in number or given >= value,
        "maximum": lambda given: type(given) not in number or given <= value,
        "exclusiveMinimum": lambda given: type(given) not in number or given > value,
        "exclusiveMaximum": lambda given: type(given) not in number or given < value,
        "minLength": lambda given: type(given) is not str or len(given) >= value,
        "maxLength": lambda given: type(given) is not str or len(given) <= value,
        "minItems": lambda given: type(given) is not list or len(given) >= value,
        "maxItems": lambda given: type(given) is not list or len(given) <= value,
    }
    if name not in tests:
        raise Unsupported
    return tests[name]
