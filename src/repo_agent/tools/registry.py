"""ToolSpec and its registry: name, schema, strict check, prompt text and dispatch from one typed function.

    @tool
    def read_file(root: Path, rel_path: RelPath, max_chars: PositiveInt) -> str:
        '''Read one file. ...'''

The first parameter is the workspace root; the others are the tool's arguments. `@tool(writes=True)`
marks one that changes files: tests run after it. A spec without a function (another agent's schema, from an OpenAI
tools file) is checked, not run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, overload

import jsonschema
import msgspec
import pydantic

from repo_agent.errors import InfraError, UserError, boundary
from repo_agent.messages import ToolCall
from repo_agent.tools.notation import descriptions, signature
from repo_agent.tools.schema import ArgumentSchema

PositiveInt = Annotated[int, pydantic.Field(ge=1)]
RelPath = Annotated[str, pydantic.Field(json_schema_extra={"format": "relative-path"})]
Pattern = Annotated[str, pydantic.Field(json_schema_extra={"format": "regex"})]

BAD_VALUE_CODES = frozenset({"path_escape", "bad_regex"})
"""Error codes of a tool that mean the argument itself was unusable, whatever the workspace holds."""


class ToolError(Exception):
    """A tool's own refusal: a short `code` such as `not_found`, and a message for the model."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered. `code` is None when ok; `cut` counts the characters left out of `output`."""

    ok: bool
    output: str
    code: str | None = None
    cut: int = 0


@dataclass(frozen=True)
class ToolSpec:
    """One tool: its name, one-line description, JSON schema of its arguments, and how to run it, if we can."""

    name: str
    description: str
    parameters: dict[str, Any]
    fn: Callable[..., str] | None = None
    writes: bool = False
    """Whether it changes files of the workspace."""
    cut_by: str = ""
    """The argument by which its caller says how many characters of the output to show, if it has one."""
    overwrites: str = ""
    """The argument that names the file whose whole text it replaces, if it does that."""

    @property
    def optional(self) -> bool:
        """Whether an argument may be left out."""
        return set(self.parameters.get("required", ())) < set(self.parameters.get("properties", ()))

    @cached_property
    def schema(self) -> ArgumentSchema:
        return ArgumentSchema(self.parameters)

    def lines(self) -> str:
        """What a prompt shows: the signature with all that calls are judged by, and what the tool and its arguments
        are for."""
        first = f"{signature(self.name, self.parameters)} - {self.description}"
        return "\n".join([first, *(f"    {line}" for line in descriptions(self.parameters))])

    def to_openai(self) -> dict[str, Any]:
        """The spec as an entry of an OpenAI `tools` list."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


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

    @classmethod
    def from_openai(cls, entries: Any, where: str = "tools") -> Registry:
        """Specs without functions from an OpenAI `tools` list. Raises UserError for any other shape."""
        try:
            functions = [entry.get("function", entry) for entry in entries]
            specs = [ToolSpec(f["name"], f.get("description", ""), _closed(f["parameters"])) for f in functions]
            for spec in specs:
                _ = spec.schema
        except (AttributeError, KeyError, TypeError, jsonschema.SchemaError) as error:
            raise UserError(
                f"not a list of OpenAI tool schemas ({type(error).__name__}: {str(error).splitlines()[0]})",
                where,
                'Each entry is {"type":"function","function":{"name":…,"description":…,"parameters":{…}}}',
            ) from error
        return cls(specs)

    @classmethod
    def load(cls, path: Path) -> Registry:
        """`from_openai` of a JSON file."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read tool schemas ({error})", str(path), "Give a JSON file") from error
        return cls.from_openai(entries, str(path))


@overload
def tool(fn: Callable[..., str], /) -> ToolSpec: ...
@overload
def tool(
    *, writes: bool = ..., cut_by: str = ..., overwrites: str = ...
) -> Callable[[Callable[..., str]], ToolSpec]: ...
def tool(
    fn: Callable[..., str] | None = None, /, *, writes: bool = False, cut_by: str = "", overwrites: str = ""
) -> ToolSpec | Callable[[Callable[..., str]], ToolSpec]:
    """Make a ToolSpec of a typed function: its docstring's first paragraph is the description. An argument with a
    default may be left out. The keywords are fields of `ToolSpec`.

    Raises TypeError for a function whose parameters are not `root` and then typed arguments.
    """

    def made(fn: Callable[..., str]) -> ToolSpec:
        return replace(_spec(fn), writes=writes, cut_by=cut_by, overwrites=overwrites)

    return made(fn) if fn else made


def _spec(fn: Callable[..., str]) -> ToolSpec:
    everything = list(inspect.signature(fn, eval_str=True).parameters.values())
    _check_parameters(fn.__name__, everything)
    parameters = everything[1:]
    fields: dict[str, Any] = {
        parameter.name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for parameter in parameters
    }
    model: type[pydantic.BaseModel] = pydantic.create_model(fn.__name__, **fields)
    schema = model.model_json_schema()
    properties = {
        name: {key: value for key, value in entry.items() if key != "title"}
        for name, entry in schema.get("properties", {}).items()
    }
    record = {
        "type": "object",
        "properties": properties,
        "required": [parameter.name for parameter in parameters if parameter.default is parameter.empty],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        record["$defs"] = schema["$defs"]
    description = " ".join((inspect.getdoc(fn) or "").split("\n\n")[0].split())
    return ToolSpec(fn.__name__, description, record, fn)


def _check_parameters(name: str, parameters: list[inspect.Parameter]) -> None:
    if [parameter.name for parameter in parameters[:1]] != ["root"]:
        raise TypeError(f"{name}: the first parameter of a tool is `root`, the workspace's folder")
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: a tool takes no *args and no **kwargs")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{name}: {parameter.name} needs a type")


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
        missing = [name for name in error.validator_value if name not in given]
        return Fault(turn_class, f"{spec.name} needs {', '.join(missing)}")
    name = ".".join(str(part) for part in error.absolute_path)
    if turn_class == "unexpected_arg":
        known = error.schema.get("properties", {})
        extra = [key for key in error.instance if key not in known]
        return Fault(turn_class, f"{spec.name} takes no {', '.join(extra)}")
    if turn_class == "wrong_type":
        return Fault(turn_class, f"{name or 'args'} must be of type {error.validator_value}")
    return Fault(turn_class, f"{name} has a value that {spec.name} does not take")


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """A foreign schema takes no undeclared argument unless it says so."""
    return parameters if "additionalProperties" in parameters else {**parameters, "additionalProperties": False}
