"""What schemas say of values: which they list, which numbers may be, what two schemas share.

All of it raises GrammarError for what is no schema, is not supported, or allows nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .base import GrammarError, shown

Schema = dict[str, Any]

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
# Multiples within bounds are listed, if they are not more.
_MOST_MULTIPLES = 1000


@dataclass(frozen=True)
class Values:
    """A canonical schema that stands for `enum` and `const`, and is written last."""

    values: list[Any]


def number_schema(kind: str, given: Schema) -> Any:
    """Of `integer` or `number`; integers have whole bounds that are included, or are listed."""
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GrammarError(f"{key} must be a number, not {shown(value)}")
    if kind == "number":
        if "multipleOf" in given:
            raise GrammarError("multipleOf is supported for integers alone")
        return {"type": kind, **given}
    least, most, step = _integers(given)
    if least is not None and most is not None and least > most:
        raise GrammarError("the bounds of a number allow nothing")
    if step == 1 or (least is None and most is None):
        bounds = {"minimum": least, "maximum": most, "multipleOf": step if step > 1 else None}
        return {"type": kind} | {key: each for key, each in bounds.items() if each is not None}
    if least is None or most is None or (most - least) // step >= _MOST_MULTIPLES:
        raise GrammarError("multipleOf is supported without bounds, or with few values in them")
    values = list(range(-(-least // step) * step, most + 1, step))
    if not values:
        raise GrammarError("the bounds of a number allow nothing")
    return Values(values)


def _integers(given: Schema) -> tuple[int | None, int | None, int]:
    """The least and the largest integer, and what all are multiples of."""
    step = given.get("multipleOf", 1)
    if step != int(step) or step < 1:
        raise GrammarError(f"multipleOf must be a positive integer, not {shown(step)}")
    least = [math.ceil(given["minimum"])] if "minimum" in given else []
    most = [math.floor(given["maximum"])] if "maximum" in given else []
    if "exclusiveMinimum" in given:
        least.append(math.floor(given["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in given:
        most.append(math.ceil(given["exclusiveMaximum"]) - 1)
    return max(least, default=None), min(most, default=None), int(step)


def listed_values(given: Schema) -> Values:
    """Of `enum` and `const`, those that are of the type."""
    values = as_list("enum", given["enum"]) if "enum" in given else [given["const"]]
    if "enum" in given and "const" in given:
        values = [value for value in values if _same(value, given["const"])]
    others = given.keys() - {"enum", "const", "type"}
    if others:
        raise GrammarError(f"{min(others)} beside enum or const is not supported")
    types = given.get("type", TYPES)
    types = [types] if isinstance(types, str) else types
    values = [value for value in values if any(_is_of(value, kind) for kind in types)]
    if not values:
        raise GrammarError("enum or const leaves no value")
    return Values(values)


def _is_of(value: Any, kind: Any) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind == "number" or (kind == "integer" and value == int(value))


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def both(key: str, value: Any, other: Any) -> Any:
    """The value of a keyword that two schemas have, both of which hold."""
    if key == "required":
        return list(dict.fromkeys([*as_list(key, value), *as_list(key, other)]))
    if key == "properties":
        value, other = as_object(key, value), as_object(key, other)
        shared = [name for name in value.keys() & other.keys() if value[name] != other[name]]
        if not shared:
            return {**value, **other}
        raise GrammarError(f"allOf with property {shown(min(shared))} twice is not supported")
    if value == other:
        return value
    if key == "allOf":
        return [*as_list(key, value), *as_list(key, other)]
    if key == "enum":
        return [
            each for each in as_list(key, value) if any(_same(each, o) for o in as_list(key, other))
        ]
    if key == "multipleOf" and type(value) is type(other) is int:
        return math.lcm(value, other)
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        return max(value, other)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
        return min(value, other)
    if key == "type":
        mine, theirs = ({each} if isinstance(each, str) else {*each} for each in (value, other))
        shared = mine & theirs
        if "number" in mine ^ theirs and "integer" in mine ^ theirs:  # integers are numbers
            shared.add("integer")
        return sorted(shared)
    raise GrammarError(f"two schemas with {key} that must both hold are not supported")


def differ(schema: Any, other: Any) -> bool:
    """Whether no value is allowed by both canonical schemas, as far as is easily seen."""
    kinds, others = _kinds(schema), _kinds(other)
    if kinds is not None and others is not None and not kinds & others:
        return True
    if isinstance(schema, Values) or isinstance(other, Values):
        return _differ_as_values(schema, other)
    shared = set(schema.get("required", ())) & set(other.get("required", ()))
    properties, theirs = schema.get("properties", {}), other.get("properties", {})
    return kinds == others == {"object"} and any(
        _differ_as_values(properties[name], theirs[name]) for name in shared
    )


def _differ_as_values(schema: Any, other: Any) -> bool:
    if not isinstance(schema, Values) or not isinstance(other, Values):
        return False
    return not any(_same(a, b) for a in schema.values for b in other.values)


def _kinds(schema: Any) -> set[str] | None:
    """The types of what a canonical schema allows; None: unknown. Integers are numbers."""
    if isinstance(schema, Values):
        return {next(k for k in TYPES if k != "integer" and _is_of(v, k)) for v in schema.values}
    if "type" in schema:
        return {"number" if schema["type"] == "integer" else schema["type"]}
    if "anyOf" in schema:
        kinds = [_kinds(each) for each in schema["anyOf"]]
        return None if None in kinds else set().union(*(kind for kind in kinds if kind))
    return None


# ===== values of keywords =====


def as_list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise GrammarError(f"{key} must be a list, not {shown(value)}")
    return value


def as_object(key: str, value: Any) -> Schema:
    if not isinstance(value, dict):
        raise GrammarError(f"{key} must be an object, not {shown(value)}")
    return value


def as_count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise GrammarError(f"{key} must be a whole number, not {shown(value)}")
    if value < 0:
        raise GrammarError(f"{key} must not be negative, and is {shown(value)}")
    return int(value)
