"""A JSON Schema as a grammar of exactly what our serializer writes: compact JSON, keys in the schema's order.

The notation is GBNF, which vLLM reads. Whatever the grammar allows is valid by the schema but for patterns, formats and
bounds of numbers above 1. A schema that it cannot express is an InfraError.
"""

from __future__ import annotations

import json
from typing import Any

from repo_agent.errors import InfraError

_PRIMITIVES = {
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x00-\x1f] | "\\" (["\\bfnrt] | "u00" [01] [0-9a-f])',
    "integer": '"-"? natural',
    "natural": '"0" | positive',
    "positive": "[1-9] [0-9]{0,15}",
    "number": '"-"? natural ("." [0-9]{1,17})? ("e" [-+] [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" (pair ("," pair)*)? "}"',
    "pair": 'string ":" value',
    "array": '"[" (value ("," value)*)? "]"',
}
"""A rule for each type, and those that they are made of."""
_UNSAID = "allOf not if patternProperties dependentRequired dependentSchemas prefixItems contains".split()


def gbnf(schema: dict[str, Any]) -> str:
    """The grammar, its first rule `root`. Raises InfraError for a schema that it cannot express."""
    rules = _Rules(schema)
    root = rules.expression(schema)
    found = {"root": root, **rules.made, **_PRIMITIVES}
    return "\n".join(f"{name} ::= {body}" for name, body in _used(found).items()) + "\n"


def _used(rules: dict[str, str]) -> dict[str, str]:
    """The rules that root leads to: parsers complain of others."""
    kept, waiting = {"root": rules["root"]}, [rules["root"]]
    while waiting:
        for word in _names(waiting.pop()):
            if word in rules and word not in kept:
                kept[word] = rules[word]
                waiting.append(rules[word])
    return kept


def _names(body: str) -> list[str]:
    """Words outside literals and character classes."""
    found, word, end = [], "", ""
    skip = False
    for char in body + " ":
        if end:
            skip, end = (not skip and char == "\\"), ("" if char == end and not skip else end)
            continue
        if char.isalnum():
            word += char
            continue
        found.append(word)
        word, end, skip = "", {'"': '"', "[": "]"}.get(char, ""), False
    return found


class _Rules:
    """Makes expressions of schemas; `made` holds the rules that they name."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._of_ref: dict[str, str] = {}
        self.made: dict[str, str] = {}

    def expression(self, schema: Any) -> str:
        """One alternative or several, in brackets where there are several."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise InfraError("model", f"a grammar cannot express the schema {schema!r}")
        if unsaid := [key for key in _UNSAID if key in schema]:
            raise InfraError("model", f"a grammar cannot express {unsaid[0]}")
        if "$ref" in schema:
            return self._ref(schema["$ref"])
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return _either(_literal(_json(value)) for value in values)
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return _either(self.expression(one) for one in options)
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            return _either(self.expression({**schema, "type": one}) for one in kind)
        return self._typed(kind, schema)

    def _typed(self, kind: Any, schema: dict[str, Any]) -> str:
        if kind == "string":
            least, most = schema.get("minLength", 0), schema.get("maxLength", "")
            return f'"\\"" char{{{least},{most}}} "\\""' if least or most != "" else "string"
        if kind == "integer":
            least = max(schema.get("minimum", -1), schema.get("exclusiveMinimum", -2) + 1)
            return "positive" if least >= 1 else "natural" if least >= 0 else "integer"
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        if kind in ("number", "boolean", "null"):
            return str(kind)
        return "value"

    def _array(self, schema: dict[str, Any]) -> str:
        item = self._rule(self.expression(schema.get("items", True)))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[]"'
        times = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        whole = f'{item} ("," {item}){times}'
        return f'"[" {whole} "]"' if least else f'"[" ({whole})? "]"'

    def _object(self, schema: dict[str, Any]) -> str:
        """Keys that the schema names, in its order; where it names none, what it allows beside."""
        properties, needed = schema.get("properties", {}), set(schema.get("required", ()))
        other = schema.get("additionalProperties", True)
        if not properties and other is not False:
            pair = f'string ":" {self._rule(self.expression(other))}'
            return f'"{{" ({pair} ("," {pair})*)? "}}"'
        pairs = [
            (self._rule(f"{_literal(_json(key) + ':')} {self.expression(one)}"), key in needed)
            for key, one in properties.items()
        ]
        return f'"{{" {_first(pairs)} "}}"'

    def _ref(self, ref: str) -> str:
        if ref not in self._of_ref:
            target: Any = self._root
            if not ref.startswith("#"):
                raise InfraError("model", f"a grammar cannot express the reference {ref}")
            for part in filter(None, ref[1:].split("/")):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            name = self._of_ref[ref] = f"ref{len(self._of_ref)}"
            self.made[name] = self.expression(target)
        return self._of_ref[ref]

    def _rule(self, body: str) -> str:
        """A name for an expression, so that it is written once."""
        for name, known in self.made.items():
            if known == body:
                return name
        name = f"r{len(self.made)}"
        self.made[name] = body
        return name


def _first(pairs: list[tuple[str, bool]]) -> str:
    """The pairs from the first one that is there, with commas between them."""
    if not pairs:
        return '""'
    (pair, needed), rest = pairs[0], pairs[1:]
    following = " ".join([pair, *(f'"," {name}' if must else f'("," {name})?' for name, must in rest)])
    return following if needed else f"({following} | {_first(rest)})"


def _either(options: Any) -> str:
    found = list(dict.fromkeys(options))
    return found[0] if len(found) == 1 else f"({' | '.join(found)})"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
