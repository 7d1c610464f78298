"""Do a model's arguments fit a tool's JSON schema? Enough of the standard to tell a model what to change.

Checked: type, enum, const, properties, required, additionalProperties, items, and local `$ref`, `anyOf` and `oneOf`
(JSON Schema 2020-12, https://json-schema.org/draft/2020-12). Keywords beyond these are left to the tool itself.
"""

from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_MAX_DEPTH = 64


def check_arguments(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """What does not fit, one short sentence each; empty if everything fits."""
    return _problems(dict(arguments), schema, schema, "", 0)


def _problems(value: Any, schema: Any, root: Mapping[str, Any], place: str, depth: int) -> list[str]:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return []
    if "$ref" in schema:
        return _problems(value, _referred(schema["$ref"], root), root, place, depth + 1)
    problems = [*_own_problems(value, schema, place)]
    if problems:
        return problems
    for keyword in ("anyOf", "oneOf"):
        options = schema.get(keyword)
        if isinstance(options, list) and options:
            attempts = [_problems(value, option, root, place, depth + 1) for option in options]
            if all(attempts):
                problems += sorted(attempts, key=len)[0]
    if isinstance(value, dict):
        problems += _object_problems(value, schema, root, place, depth)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            problems += _problems(item, schema["items"], root, f"{place}[{index}]", depth + 1)
    return problems


def _own_problems(value: Any, schema: Mapping[str, Any], place: str) -> list[str]:
    here = place or "the arguments"
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(kinds, list) and not any(_is(value, kind) for kind in kinds):
        return [f"{here} must be of type {' or '.join(map(str, kinds))}"]
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return [f"{here} must be one of {schema['enum']}"]
    if "const" in schema and value != schema["const"]:
        return [f"{here} must be {schema['const']!r}"]
    return []


def _is(value: Any, kind: object) -> bool:
    types = _TYPES.get(str(kind))
    if types is None:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, types) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _object_problems(
    value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], place: str, depth: int
) -> list[str]:
    problems = [f"{_inside(place, key)} is missing" for key in schema.get("required") or [] if key not in value]
    properties = schema.get("properties") or {}
    for key, item in value.items():
        if key in properties:
            problems += _problems(item, properties[key], root, _inside(place, key), depth + 1)
        elif schema.get("additionalProperties") is False:
            problems.append(f"{_inside(place, key)} is not a parameter")
        else:
            problems += _problems(item, schema.get("additionalProperties"), root, _inside(place, key), depth + 1)
    return problems


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _referred(reference: object, root: Mapping[str, Any]) -> Any:
    target: Any = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        if not part:
            continue
        target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
    return target
