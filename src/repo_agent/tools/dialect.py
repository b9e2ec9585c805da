"""How a tool's schema is read: by the dialect that its `$schema` names, else 2020-12; every `$ref` resolved at once;
closed to arguments that no part of it names, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import jsonschema.validators
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY, specification_with

VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords that hold values, not schemas."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_PARTS = frozenset({*_REFERENCES, "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "extends"})
"""Keywords by which other schemas may name properties of the same object."""
_BOUNDS_ARE_NUMBERS = (
    jsonschema.Draft202012Validator,
    jsonschema.Draft201909Validator,
    jsonschema.Draft7Validator,
    jsonschema.Draft6Validator,
)


class BadSchemaError(Exception):
    """Why a tool's calls cannot be judged by its schema."""


def dialect(schema: Any) -> Any:
    """The validator class of a schema. Raises BadSchemaError for a `$schema` that is no URL."""
    try:
        return jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadSchemaError("its $schema is not a URL") from error


def has_quick_check(kind: Any) -> bool:
    """Whether ordinary keywords mean in this dialect what `certain` takes them for."""
    return kind in _BOUNDS_ARE_NUMBERS


def without_dialects(schema: Any) -> Any:
    """A schema without `$schema`, which would bring in another validator, without our limits."""
    if isinstance(schema, dict):
        return {
            name: one if name in VALUES else without_dialects(one)
            for name, one in schema.items()
            if not (name == "$schema" and isinstance(one, str))
        }
    return [without_dialects(one) for one in schema] if isinstance(schema, list) else schema


def check_references(schema: Any, kind: Any) -> None:
    """Raise BadSchemaError for a `$ref` that leads nowhere; nothing is fetched from anywhere."""
    specification = specification_with(kind.META_SCHEMA.get("$id") or kind.META_SCHEMA["id"])
    root: Resource[Any] = specification.create_resource(schema)
    registry: Registry[Any] = EMPTY_REGISTRY.with_resource(root.id() or "", root)
    waiting = [(schema, registry.resolver(root.id() or ""))]
    while waiting:
        one, resolver = waiting.pop()
        if isinstance(one, dict):
            if one is not schema and isinstance(one.get("$id"), str):
                resolver = resolver.in_subresource(specification.create_resource(one))
            for name in _REFERENCES:
                if isinstance(where := one.get(name), str):
                    try:
                        resolver.lookup(where)
                    except (Unresolvable, ValueError) as error:
                        raise BadSchemaError(f"its {name} {where!r} leads nowhere") from error
        waiting += [(inner, resolver) for inner in _inner(one)]


def _inner(schema: Any) -> Iterator[Any]:
    if isinstance(schema, dict):
        yield from (one for name, one in schema.items() if name not in VALUES)
    elif isinstance(schema, list):
        yield from schema


def closed(schema: Any) -> tuple[Any, bool]:
    """A schema that takes no undeclared argument, and whether that is left to `unexpected`: where other parts of it
    name arguments too."""
    if not isinstance(schema, dict) or "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return schema, False
    if _PARTS & schema.keys():
        return schema, True
    return {**schema, "additionalProperties": False}, False


def declared(schema: Any) -> frozenset[str]:
    """Every name in a `properties`, wherever it is."""
    names: set[str] = set()
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        own = one.get("properties") if isinstance(one, dict) else None
        names |= own.keys() if isinstance(own, dict) else set()
        waiting += _inner(one)
    return frozenset(names)


def unexpected(validator: Any, value: dict[str, Any], names: frozenset[str]) -> Iterator[Any]:
    """The error of an object with arguments that no part of its schema names, as `unevaluatedProperties` has it; that
    of a value where only parts name them that do not fit."""
    keyword = jsonschema.Draft202012Validator.VALIDATORS["unevaluatedProperties"]
    for error in keyword(validator, False, value, validator.schema):
        kind = "anyOf" if names.issuperset(value) else "unevaluatedProperties"
        extra = [name for name in value if name not in names]
        yield jsonschema.ValidationError(error.message, validator=kind, validator_value=extra, instance=value)
