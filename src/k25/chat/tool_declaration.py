"""Tools as TypeScript-style text, the form in which K2.5 was trained to read them.

Equal to what the released tokenizer writes (its `tool_declaration_ts`), with its peculiarities: booleans and nulls
print as in Python (`True`, `None`), strings in enums are quoted without escaping, names are written raw. A schema
outside the style (`oneOf`, `const`, foreign references) makes the whole list fall back to JSON.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from k25.errors import InputError

INDENT = "  "
_CONSTRAINTS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
_UNION_MEMBERS = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "{}",
    "array": "Array<any>",
}
_ENUM_MEMBERS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
# Schemas are whatever the caller sent; any fault in one means that the list cannot be declared in this style.
_SCHEMA_FAULTS = (ValueError, TypeError, AttributeError, KeyError, RecursionError)


def declaration_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """The body of the tool block: TypeScript style, or compact JSON where that is impossible; keys sorted either way.

    Raises:
        InputError: if a schema is nested too deeply to be walked.
    """
    try:
        ordered = [sort_keys(tool) for tool in tools]
        return typescript_declaration(ordered) or json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise InputError("tools: a schema is nested too deeply") from None


def sort_keys(value: Any) -> Any:
    """The same JSON value with every object's keys in order; lists keep theirs."""
    if isinstance(value, dict):
        return {key: sort_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sort_keys(item) for item in value]
    return value


def typescript_declaration(tools: Sequence[Mapping[str, Any]]) -> str:
    """The TypeScript-style text of the function tools; empty if there are none or one of them cannot be written."""
    functions = [tool["function"] for tool in tools if tool.get("type") == "function" and tool.get("function")]
    if not functions:
        return ""
    try:
        declared = "\n".join(_Function(function).text() for function in functions)
    except _SCHEMA_FAULTS:
        return ""
    return f"# Tools\n\n## functions\nnamespace functions {{\n{declared}\n}}\n"


class _Function:
    """One function: walks its schema, collecting the definitions that it meets on the way."""

    def __init__(self, function: Mapping[str, Any]):
        self._function = function
        self._definitions: dict[str, Any] = {}
        self._refers_to_itself = False

    def text(self) -> str:
        root = self._function.get("parameters") or {}
        # Walking order is part of the format: a reference is only known once its definition has been met.
        additional = self._additional(root, "")
        members = self._members(root, INDENT)
        blocks = []
        parameters = _object(members, additional, "")
        if self._refers_to_itself:
            parameters = "parameters"
            blocks.append(f"interface parameters {_braces([text for _, _, text in members], '')}")
        for name, schema in list(self._definitions.items()):
            definition = f"interface {name} {self._type(schema, '')}"
            blocks.append(_comment(schema.get("description", ""), "") + definition)
        description = _comment(self._function.get("description") or "", "")
        return "\n".join(
            [*blocks, f"{description}type {self._function.get('name', 'function')} = (_: {parameters}) => any;"]
        )

    def _members(self, schema: Mapping[str, Any], indent: str) -> list[tuple[bool, str, str]]:
        """(optional, name, text) of every property, in document order; the text carries its docs and indent."""
        if "properties" not in schema:
            return []
        required = set(schema.get("required", []))
        members = []
        for name, value in schema["properties"].items():
            kind = self._type(value, indent)
            default = _default(value, indent) if isinstance(value, dict) else ""
            optional = name not in required
            mark = "?" if optional else ""
            members.append((optional, name, f"{_docs(value, indent)}{default}{indent}{name}{mark}: {kind}"))
        return members

    def _additional(self, schema: Mapping[str, Any], indent: str) -> str:
        """Register an object's definitions; then its index signature, or an empty string."""
        self._definitions.update(schema.get("$defs") or {})
        allowed = schema.get("additionalProperties")
        if allowed is None:
            return ""
        if isinstance(allowed, dict):
            kind = self._type(allowed, indent + INDENT)
        elif isinstance(allowed, bool):
            kind = "any" if allowed else "never"
        else:
            raise ValueError("additionalProperties is neither boolean nor schema")
        return f"{indent}{INDENT}[k: string]: {kind}"

    def _type(self, schema: Any, indent: str) -> str:
        if isinstance(schema, bool):
            return "any" if schema else "null"
        if "$ref" in schema:
            return self._reference(schema["$ref"])
        if "anyOf" in schema:
            return " | ".join([self._type(branch, indent) for branch in schema["anyOf"]])
        if "enum" in schema:
            return _enum(schema)
        if "type" in schema:
            return self._plain_type(schema, indent)
        if schema == {}:
            return "any"
        raise ValueError("a schema without a type")

    def _plain_type(self, schema: Mapping[str, Any], indent: str) -> str:
        kind = schema["type"]
        if isinstance(kind, list):
            return " | ".join([_UNION_MEMBERS[member] for member in kind])
        if kind == "object":
            additional = self._additional(schema, indent)
            return _object(self._members(schema, indent + INDENT), additional, indent)
        if kind == "array":
            return self._array(schema.get("items"), indent)
        if not isinstance(kind, str):
            raise TypeError("type is no string")
        return "number" if kind == "integer" else kind

    def _array(self, items: Any, indent: str) -> str:
        if not items:
            return "Array<any>"
        inner = indent + INDENT
        docs = _docs(items, inner)
        if docs:
            return f"Array<\n{docs}{inner}{self._type(items, inner)}\n{indent}>"
        return f"Array<{self._type(items, indent)}>"

    def _reference(self, target: str) -> str:
        if target == "#":
            self._refers_to_itself = True
            return "parameters"
        name = target.split("/")[-1]
        if not target.startswith("#/$defs/") or not isinstance(self._definitions[name], dict):
            raise ValueError("a reference that cannot be followed")
        return name


def _object(members: Sequence[tuple[bool, str, str]], additional: str, indent: str) -> str:
    texts = [text for _, _, text in sorted(members)]
    return _braces([*texts, additional] if additional else texts, indent)


def _braces(members: Sequence[str], indent: str) -> str:
    if not members:
        return "{}"
    return "{\n" + ",\n".join(members) + f"\n{indent}}}"


def _enum(schema: Mapping[str, Any]) -> str:
    values = schema["enum"]
    allowed = _ENUM_MEMBERS.get(_enum_type(schema["type"])) if "type" in schema else None
    if allowed and not all(value is None or isinstance(value, allowed) for value in values):
        raise ValueError("an enum value that does not fit its type")
    return " | ".join([f'"{value}"' if isinstance(value, str) else str(value) for value in values])


def _enum_type(kind: Any) -> Any:
    if not isinstance(kind, list):
        return kind
    others = [member for member in kind if member != "null"]
    if len(kind) > 2 or (len(kind) == 2 and "null" not in kind) or not kind:
        raise ValueError("an enum of several types")
    return others[0] if others else "null"


def _docs(schema: Any, indent: str) -> str:
    """Description and constraints of a property or item, as whole comment lines."""
    if isinstance(schema, bool):
        return ""
    docs = _comment(schema.get("description", ""), indent)
    limits = ", ".join(f"{key}: {schema[key]}" for key in _constraint_keys(schema) if key in schema)
    return docs + (f"{indent}// {limits}\n" if limits else "")


def _constraint_keys(schema: Mapping[str, Any]) -> Iterator[str]:
    plain = not any(key in schema for key in ("$ref", "anyOf", "enum"))
    kind = schema.get("type")
    if plain and isinstance(kind, str):
        yield from _CONSTRAINTS.get(kind, ())


def _default(schema: Mapping[str, Any], indent: str) -> str:
    value = schema.get("default")
    if value is None:
        return ""
    text = repr(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)
    return f"{indent}// Default: {text}\n"


def _comment(text: str, indent: str) -> str:
    """Every line of a text as a comment line; empty lines stay empty."""
    if not text:
        return ""
    return "".join(f"{indent}// {line}\n" if line else "\n" for line in text.split("\n"))
