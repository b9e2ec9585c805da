"""The tools of one agent: the strict check of a call, and its dispatch.

A spec without a function (another agent's schema, from an OpenAI tools file) is checked, not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from repo_agent.errors import InfraError, UserError, boundary
from repo_agent.messages import ToolCall
from repo_agent.tools.spec import Pattern, PositiveInt, RelPath, ToolError, ToolSpec, foreign_spec, tool

__all__ = [
    "BAD_VALUE_CODES", "Checked", "Fault", "Pattern", "PositiveInt", "Registry", "RelPath", "ToolError", "ToolResult",
    "ToolSpec", "cut", "tool",
]  # fmt: skip

BAD_VALUE_CODES = frozenset({"path_escape", "bad_regex"})
"""Error codes of a tool that mean the argument itself was unusable, whatever the workspace holds."""
_SHAPE = 'Each entry is {"type":"function","function":{"name":…,"description":…,"parameters":{…}}}'


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered. `code` is None when ok; `cut` counts the characters left out of `output`."""

    ok: bool
    output: str
    code: str | None = None
    cut: int = 0


class Fault(msgspec.Struct, frozen=True):
    """Why a call is refused before it runs: a turn class's name and a message for the model."""

    turn_class: str
    message: str


class Checked(msgspec.Struct, frozen=True):
    """What the check of a call came to."""

    fault: Fault | None
    unchecked: frozenset[str] = frozenset()
    """What of its tool's schema would have taken too long, such as `pattern`: never the model's fault."""


class Registry:
    """The tools of one agent, in order."""

    def __init__(self, specs: Iterable[ToolSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}

    def check(self, call: ToolCall) -> Fault | None:
        """The first fault of a call, or None: the name, then missing, unexpected, mistyped, unusable arguments."""
        return self.checked(call).fault

    def checked(self, call: ToolCall) -> Checked:
        """`check`, and what was not checked."""
        spec = self.specs.get(call.name)
        if spec is None:
            return Checked(Fault("unknown_tool", f"there is no tool {call.name!r}; tools: {', '.join(self.specs)}"))
        if spec.unjudged:
            return Checked(Fault("unjudged", f"{call.name}: {spec.unjudged}"))
        error, unchecked = spec.schema.check(call.args, _graver)
        return Checked(_fault(spec, error) if error is not None else None, unchecked)

    def execute(self, call: ToolCall, root: Path, limit: int, read_limit: int | None = None) -> ToolResult:
        """Run a checked call in the workspace `root`; the output is cut to `limit` characters, once, here. Where the
        call itself says how much to show it is cut to that, or to `read_limit`.

        A ToolError is the model's: it becomes the result, and so do memory and recursion that the arguments used up.
        Raises InfraError for any other exception of the tool, for a result that is not text, for a tool without a
        function.
        """
        spec = self.specs[call.name]
        if spec.fn is None:
            raise InfraError("tool", f"{call.name} has a schema but no function, so it cannot run")
        try:
            with boundary(f"tool {call.name}", ToolError, MemoryError, RecursionError):
                output = spec.fn(root, **call.args)
        except ToolError as error:
            return ToolResult(False, str(error), error.code)
        except (MemoryError, RecursionError):
            return ToolResult(False, f"{call.name} cannot do so much with these arguments", "too_much")
        if not isinstance(output, str):
            raise InfraError(f"tool {call.name}", f"gave {type(output).__name__}, and a tool's result is a str")
        asked = call.args.get(spec.cut_by)
        if isinstance(asked, int) and not isinstance(asked, bool):
            limit = min(asked, limit if read_limit is None else read_limit)
        text, left_out = cut(output, limit)
        return ToolResult(True, text, None, left_out)

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as an OpenAI `tools` list: what traces and contracts record."""
        return [spec.to_openai() for spec in self.specs.values()]

    @property
    def unjudged(self) -> dict[str, str]:
        """Tools whose calls cannot be judged, and why."""
        return {name: spec.unjudged for name, spec in self.specs.items() if spec.unjudged}

    @property
    def judges(self) -> bool:
        """Whether there is a tool that calls can be judged by."""
        return any(not spec.unjudged for spec in self.specs.values())

    @classmethod
    def from_openai(cls, entries: Any, where: str = "tools") -> Registry:
        """Specs without functions from an OpenAI `tools` list. A tool that cannot be judged is kept and named, the
        others are judged. Raises UserError for any other shape."""
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError("not a list of OpenAI tool schemas", where, _SHAPE)
        return cls(map(foreign_spec, entries))

    @classmethod
    def load(cls, path: Path) -> Registry:
        """`from_openai` of a JSON file. Raises UserError where calls of none of its tools can be judged."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read tool schemas ({error})", str(path), "Give a JSON file") from error
        registry = cls.from_openai(entries, str(path))
        if registry.specs and not registry.judges:
            name, why = next(iter(registry.unjudged.items()))
            raise UserError(f"holds no tool that calls can be judged by ({name}: {why})", str(path), _SHAPE)
        return registry


def cut(text: str, limit: int) -> tuple[str, int]:
    """`text` within `limit` characters, and how many were left out: head and tail around a mark that says so, and that
    counts too. Where the mark would fill half of it, the head alone."""
    if len(text) <= limit:
        return text, 0
    left_out = len(text) - limit
    for _ in range(3):  # the mark's own length depends on the number in it
        mark = f"\n[... {left_out} characters cut ...]\n"
        left_out = len(text) - limit + len(mark)
    room = limit - len(mark)
    if room < len(mark):
        return text[:limit], len(text) - limit
    tail = room // 3
    return f"{text[: room - tail]}{mark}{text[len(text) - tail :]}", left_out


_FAULT_ORDER = ("unknown_tool", "missing_arg", "unexpected_arg", "wrong_type", "bad_value")
_CLASS_OF_KEYWORD = {
    "required": "missing_arg",
    "additionalProperties": "unexpected_arg",
    "unevaluatedProperties": "unexpected_arg",
    "type": "wrong_type",
}


def _class(error: Any) -> str:
    return _CLASS_OF_KEYWORD.get(str(error.validator), "bad_value")


def _graver(best: Any, error: Any) -> Any:
    """The error whose class comes first; of two alike the first."""
    if best is None:
        return error
    return min(best, error, key=lambda one: _FAULT_ORDER.index(_class(one)))


def _fault(spec: ToolSpec, error: Any) -> Fault:
    turn_class = _class(error)
    if turn_class == "missing_arg":
        given = error.instance if isinstance(error.instance, dict) else {}
        listed = error.validator_value
        if not isinstance(listed, list):  # draft 3: each property says it of itself
            properties = error.schema.get("properties", {}).items()
            listed = [name for name, one in properties if isinstance(one, dict) and one.get("required") is True]
        missing = [name for name in listed if name not in given]
        return Fault(turn_class, f"{spec.name} needs {', '.join(missing)}")
    name = ".".join(str(part) for part in error.absolute_path)
    if turn_class == "unexpected_arg":
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        listed = error.validator_value
        extra = listed if isinstance(listed, list) else [key for key in error.instance if key not in known]
        return Fault(turn_class, f"{spec.name} takes no {', '.join(extra)}")
    if turn_class == "wrong_type":
        return Fault(turn_class, f"{name or 'args'} must be of type {error.validator_value}")
    return Fault(turn_class, f"{name} has a value that {spec.name} does not take")
