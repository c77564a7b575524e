"""What calls of a format look like, for grammars that hold answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]
Tools = Mapping[str, Schema]

_SCHEMAS_BY_NAME = {
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
}
_VALUES = {"const", "enum", "default", "examples"}


@dataclass(frozen=True)
class CallTag:
    """Calls are written as `begin`, then JSON of `schema`, then `end`."""

    begin: str
    schema: Schema
    end: str


def call_schema(name: str, arguments: Schema, key: str) -> Schema:
    """A call as a JSON object, with its arguments under `key`."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
    }


def call_list_schema(tools: Tools, limit: int | None, key: str) -> Schema:
    """A JSON array of one call or more, up to `limit`."""
    calls = [call_schema(name, {"$ref": f"#/$defs/{name}"}, key) for name in tools]
    schema = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    definitions = {name: _moved(schema, name) for name, schema in tools.items()}
    return schema | ({} if limit is None else {"maxItems": limit}) | {"$defs": definitions}


def _moved(schema: Any, name: str) -> Any:
    """A schema as the definition called `name` of another one: what it refers to has moved with it,
    and its anchors are not those of other definitions.
    """
    if isinstance(schema, list):
        return [_moved(each, name) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            is_path = value[1:2] in ("", "/")
            moved[key] = f"#/$defs/{name}{value[1:]}" if is_path else f"#{name}.{value[1:]}"
        elif key == "$anchor":
            moved[key] = f"{name}.{value}"
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            moved[key] = {key: _moved(each, name) for key, each in value.items()}
        else:
            moved[key] = value if key in _VALUES else _moved(value, name)
    return moved
