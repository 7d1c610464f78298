"""The decorator `tool`: a typed async function becomes a tool.

Types and defaults of the signature become the JSON schema, the docstring the description, and the entries of its
`Args:` section the descriptions of the parameters:

    @tool(tool_class="search", idempotent=True)
    async def search(queries: list[str], limit: int = 5) -> str:
        \"\"\"Search the web, several queries at once.

        Args:
            queries: What to look for.
            limit: The most results per query.
        \"\"\"
"""

import inspect
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from k25.agent.tool import (
    DEFAULT_TIMEOUT,
    OUTPUT_LIMIT,
    ArgumentError,
    JsonObject,
    Tool,
    ToolClass,
    ToolContext,
    ToolOutput,
)

ToolFunction = Callable[..., Awaitable[Any]]


class FunctionTool(Tool):
    """A tool made of an async function. Raises TypeError for a signature without types or with `*args`."""

    def __init__(
        self,
        function: ToolFunction,
        *,
        name: str | None = None,
        tool_class: ToolClass = "other",
        idempotent: bool = False,
        timeout: float | None = DEFAULT_TIMEOUT,
        output_limit: int = OUTPUT_LIMIT,
    ) -> None:
        self._function = function
        self.name = name or str(getattr(function, "__name__", "tool"))
        self.description, described = _docstring(inspect.getdoc(function) or "")
        self.tool_class = tool_class
        self.idempotent = idempotent
        self.timeout = timeout
        self.output_limit = output_limit
        self._model, self._context_parameter = _model_of(function, self.name, described)
        self._fields = tuple(self._model.model_fields)
        self.parameters = _without_titles(self._model.model_json_schema())

    def validate(self, arguments: JsonObject) -> JsonObject:
        """The arguments as the function's types. Raises ArgumentError."""
        try:
            model = self._model.model_validate(arguments)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ArgumentError("; ".join(problems)) from None
        return {field: getattr(model, field) for field in self._fields}

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Call the function; what it returns besides text and `ToolOutput` is written as JSON."""
        extra = {self._context_parameter: context} if self._context_parameter else {}
        result = await self._function(**arguments, **extra)
        if isinstance(result, ToolOutput):
            return result
        if result is None or isinstance(result, str):
            return ToolOutput(result or "")
        value = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
        return ToolOutput(json.dumps(value, ensure_ascii=False))


@overload
def tool(function: ToolFunction, /) -> FunctionTool: ...


@overload
def tool(
    *,
    name: str | None = None,
    tool_class: ToolClass = "other",
    idempotent: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    output_limit: int = OUTPUT_LIMIT,
) -> Callable[[ToolFunction], FunctionTool]: ...


def tool(
    function: ToolFunction | None = None, /, **options: Any
) -> FunctionTool | Callable[[ToolFunction], FunctionTool]:
    """Make a tool of an async function; used with or without options (those of `FunctionTool`)."""
    if function is not None:
        return FunctionTool(function)
    return lambda decorated: FunctionTool(decorated, **options)


def _model_of(function: ToolFunction, name: str, described: dict[str, str]) -> tuple[type[BaseModel], str | None]:
    """The arguments as a pydantic model, and the parameter that takes the ToolContext, if there is one."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context_parameter = None
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if hint is None or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise TypeError(f"tool {name!r}: parameter {parameter.name!r} needs a type and must be an ordinary one")
        if hint is ToolContext:
            context_parameter = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        info = FieldInfo.from_annotated_attribute(hint, default)
        info.description = info.description or described.get(parameter.name)
        fields[parameter.name] = (hint, info)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields), context_parameter


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description, and the descriptions of the parameters (Google style)."""
    description, _, rest = text.partition("\nArgs:\n")
    described: dict[str, str] = {}
    current = None
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {2,4}(\w+)(?: \(.*?\))?: (.*)", line)
        if entry:
            current = entry[1]
            described[current] = entry[2].strip()
        elif current and line.strip():
            described[current] += " " + line.strip()
    description = re.split(r"\n(?:Returns|Raises):\n", description)[0]
    return description.strip(), described


def _without_titles(schema: JsonObject) -> JsonObject:
    """pydantic names everything twice; the second name only costs tokens. A property called title stays."""

    def clean(node: Any, names: bool) -> Any:
        if isinstance(node, dict):
            kept = {key: value for key, value in node.items() if names or key != "title"}
            return {key: clean(value, not names and key in ("properties", "$defs")) for key, value in kept.items()}
        return [clean(item, False) for item in node] if isinstance(node, list) else node

    cleaned = clean(schema, False)
    assert isinstance(cleaned, dict)
    return cleaned
