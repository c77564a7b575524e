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
    definitions = {name: _moved(schema, f"#/$defs/{name}") for name, schema in tools.items()}
    return schema | ({} if limit is None else {"maxItems": limit}) | {"$defs": definitions}


def _moved(schema: Any, to: str) -> Any:
    """A schema that stands at `to` in another one: what it refers to has moved with it."""
    if isinstance(schema, list):
        return [_moved(each, to) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[key] = to + value[1:]
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            moved[key] = {name: _moved(each, to) for name, each in value.items()}
        else:
            moved[key] = value if key in _VALUES else _moved(value, to)
    return moved
