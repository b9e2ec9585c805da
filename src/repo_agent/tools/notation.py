"""A tool's arguments as a prompt shows them: all that its calls are judged by, in a notation that is short to read.

    grep(pattern: string (regular expression), rel_dir: string (relative path), max_hits: integer >= 1)
    set_level(name: "low" | "high", tags?: [string], at?: {line: integer, column?: integer})

`?` marks what may be left out. A schema that says more than the notation can is printed as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_FORMATS = {"relative-path": "relative path", "regex": "regular expression"}
_PLAIN = ("string", "integer", "number", "boolean", "null")
_SILENT = frozenset({"title", "description", "examples", "default", "$comment", "deprecated", "readOnly"})
"""Keywords that decide nothing. A description is printed apart, and what is left out counts as its default."""


class _NotPrintable(Exception):
    """A schema that the notation cannot express."""


def signature(name: str, parameters: Mapping[str, Any]) -> str:
    """`name(arg: type, …)`; where the notation cannot express the whole, `name(SCHEMA)` as JSON."""
    try:
        return f"{name}({_arguments(parameters)})"
    except _NotPrintable:
        return f"{name}({json.dumps(parameters, ensure_ascii=False)})"


def descriptions(parameters: Mapping[str, Any]) -> list[str]:
    """`arg: its description`, for each argument that has one."""
    properties = parameters.get("properties")
    entries = properties.items() if isinstance(properties, Mapping) else ()
    described = [(name, entry.get("description")) for name, entry in entries if isinstance(entry, Mapping)]
    return [f"{name}: {' '.join(text.split())}" for name, text in described if isinstance(text, str) and text.strip()]


def _arguments(schema: Mapping[str, Any]) -> str:
    """The whole schema of a tool: an object that takes no other arguments unless it says so, which shows as `…`."""
    _only(schema, {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema"})
    return _properties(schema, schema, 0, others=False)


def _properties(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int, others: bool) -> str:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    more = schema.get("additionalProperties", others)
    if not isinstance(properties, Mapping) or not set(required) <= set(properties) or more not in (True, False):
        raise _NotPrintable
    shown = [
        f"{name}{'' if name in required else '?'}: {_type(entry, root, depth + 1)}"
        for name, entry in properties.items()
    ]
    return ", ".join([*shown, "…"] if more else shown)


def _type(schema: Any, root: Mapping[str, Any], depth: int) -> str:
    if depth > 8 or not isinstance(schema, Mapping):
        raise _NotPrintable
    if not set(schema) - _SILENT:
        return "any"
    if "$ref" in schema:
        return _type(_resolved(schema, root), root, depth + 1)
    if "enum" in schema or "const" in schema:
        _only(schema, {"enum", "const", "type"})
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            _only(schema, {key})
            return " | ".join(_type(one, root, depth + 1) for one in schema[key])
    kind = schema.get("type")
    if isinstance(kind, list):
        _only(schema, {"type"})
        return " | ".join(kind)
    return _of_kind(str(kind), schema, root, depth)


def _of_kind(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if kind == "object":
        if not schema.get("properties"):
            _only(schema, {"type", "additionalProperties"})
            if schema.get("additionalProperties", True) is not True:
                raise _NotPrintable
            return "object"
        _only(schema, {"type", "properties", "required", "additionalProperties"})
        return f"{{{_properties(schema, root, depth, others=True)}}}"
    if kind == "array":
        _only(schema, {"type", "items", "minItems", "maxItems"})
        inner = _type(schema["items"], root, depth + 1) if "items" in schema else "any"
        return f"[{inner}]{_range(schema, 'minItems', 'maxItems', ' items')}"
    if kind not in _PLAIN:
        raise _NotPrintable
    if kind == "string":
        _only(schema, {"type", "format", "minLength", "maxLength", "pattern"})
        rules = [_FORMATS.get(schema["format"], schema["format"])] if "format" in schema else []
        rules += [f"matches {json.dumps(schema['pattern'], ensure_ascii=False)}"] if "pattern" in schema else []
        return (
            kind + (f" ({', '.join(rules)})" if rules else "") + _range(schema, "minLength", "maxLength", " characters")
        )
    _only(schema, {"type", "minimum", "maximum"} if kind in ("integer", "number") else {"type"})
    return kind + _range(schema, "minimum", "maximum", "")


def _range(schema: Mapping[str, Any], low: str, high: str, unit: str) -> str:
    """` >= 1`, ` <= 9`, ` from 1 to 9`, with a unit."""
    if low in schema and high in schema:
        return f" from {schema[low]} to {schema[high]}{unit}"
    if low in schema:
        return f" >= {schema[low]}{unit}"
    return f" <= {schema[high]}{unit}" if high in schema else ""


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    _only(schema, {"$ref"})
    found: Any = root
    for part in str(schema["$ref"]).removeprefix("#/").split("/"):
        if not isinstance(found, Mapping) or part not in found:
            raise _NotPrintable
        found = found[part]
    return found


def _only(schema: Mapping[str, Any], known: set[str]) -> None:
    if set(schema) - known - _SILENT:
        raise _NotPrintable
