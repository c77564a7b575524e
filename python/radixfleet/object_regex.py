"""Regular expressions for JSON, from pydantic models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from worker.grammar.json_regex import schema_regex


class HasSchema(Protocol):
    """A model of pydantic 2."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...


def build_regex_from_object(object: type[HasSchema] | Mapping[str, Any] | str) -> str:
    """What matches the JSON of a pydantic model, or under a JSON schema, as a whole.

    A schema is a mapping, or JSON in a string. The JSON is as `json.dumps` writes it, on one line,
    with keys in the order of the schema; numbers with bounds have no exponent. Raises ValueError
    that names what cannot be written as a regular expression, such as a model that contains itself.
    """
    if isinstance(object, str):
        return schema_regex(object)
    if not isinstance(object, Mapping):
        object = object.model_json_schema()
    return schema_regex(json.dumps(object, ensure_ascii=False))
