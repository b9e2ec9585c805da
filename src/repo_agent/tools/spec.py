"""ToolSpec: name, schema, prompt text and dispatch from one typed function, or another agent's schema.

    @tool
    def read_file(root: Path, rel_path: RelPath, max_chars: PositiveInt) -> str:
        '''Read one file. ...'''

The first parameter is the workspace root; the others are the tool's arguments. `@tool(writes=True)`
marks one that changes files: tests run after it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, overload

import jsonschema
import pydantic

from repo_agent.tools.dialect import BadSchemaError
from repo_agent.tools.notation import descriptions, signature
from repo_agent.tools.schema import ArgumentSchema, schema_of

PositiveInt = Annotated[int, pydantic.Field(ge=1)]
RelPath = Annotated[str, pydantic.Field(json_schema_extra={"format": "relative-path"})]
Pattern = Annotated[str, pydantic.Field(json_schema_extra={"format": "regex"})]


class ToolError(Exception):
    """A tool's own refusal: a short `code` such as `not_found`, and a message for the model."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


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
    unjudged: str = ""
    """Why its calls cannot be judged, if so."""
    sent: dict[str, Any] | None = None
    """Its entry as another agent sends it, where that is not a function with a schema."""

    @property
    def optional(self) -> bool:
        """Whether an argument may be left out."""
        return set(self.parameters.get("required", ())) < set(self.parameters.get("properties", ()))

    @cached_property
    def schema(self) -> ArgumentSchema:
        return schema_of(self.parameters)

    def lines(self) -> str:
        """What a prompt shows: the signature with all that calls are judged by, and what the tool and its arguments
        are for."""
        first = f"{signature(self.name, self.parameters)} - {self.description}"
        return "\n".join([first, *(f"    {line}" for line in descriptions(self.parameters))])

    def to_openai(self) -> dict[str, Any]:
        """The spec as an entry of an OpenAI `tools` list."""
        if self.sent is not None:
            return self.sent
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


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


def foreign_spec(entry: dict[str, Any]) -> ToolSpec:
    """The spec of another agent's entry; without parameters it takes no arguments."""
    function = entry.get("function", entry)
    kind, name = entry.get("type", "function"), function.get("name") if isinstance(function, dict) else None
    if kind != "function" or not name or not isinstance(name, str):
        named = entry.get(str(kind))
        name = (named.get("name") if isinstance(named, dict) else None) or name or kind
        return ToolSpec(str(name), "", {}, unjudged=f"of the type {kind}, without a schema", sent=entry)
    description, parameters = function.get("description"), function.get("parameters")
    spec = ToolSpec(
        name,
        description if isinstance(description, str) else "",
        {"type": "object", "properties": {}} if parameters is None else parameters,
    )
    try:
        _ = spec.schema
    except (jsonschema.SchemaError, BadSchemaError) as error:
        return replace(spec, parameters={}, unjudged=f"not a JSON schema: {str(error).splitlines()[0]}", sent=entry)
    return spec
