"""JSON schemas as regular expressions, for a backend that knows nothing else."""

from __future__ import annotations

import json
import math
from decimal import Decimal

from .base import GrammarError, shown
from .json_schema import Schema, canonical_schema
from .number_regex import Bound, integer_regex, number_regex
from .pattern import json_pattern, literal, plain_characters

_PLAIN = plain_characters()
# Surrogates, which come in pairs, are left out.
_ESCAPE = r'\\(?:["\\/bfnrt]|u(?:[0-9a-cA-Ce-fE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))'
_STRING = f'"(?:{_PLAIN}|{_ESCAPE})*"'
_INTEGER = "-?(?:0|[1-9][0-9]*)"
_SCALAR = {
    "string": _STRING,
    "integer": _INTEGER,
    "number": rf"{_INTEGER}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?",
    "boolean": "true|false",
    "null": "null",
}
# How deep lists and objects lie in each other where a schema does not say. With one more, an object
# of any kind takes ten seconds to compile for 136,000 tokens.
_DEPTH = 1


def schema_regex(text: str) -> str:
    """What matches the JSON that the schema in `text` allows, on one line as `json.dumps` has it.

    Raises GrammarError, also for what no regular expression can say.
    """
    schema = json.loads(canonical_schema(text, json_pattern))
    return _SchemaWriter(schema.pop("$defs", {})).any_of(schema)


class _SchemaWriter:
    """Writes canonical schemas; definitions are written out wherever they are named."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._written: dict[str, str] = {}
        self._open: set[str] = set()

    def any_of(self, schema: Schema) -> str:
        """In a group of its own."""
        return f"(?:{self._schema(schema)})"

    def _schema(self, schema: Schema) -> str:
        if "$ref" in schema:
            return self._definition(schema["$ref"].removeprefix("#/$defs/"))
        if "anyOf" in schema:
            return "|".join(self._schema(each) for each in schema["anyOf"])
        if "enum" in schema:
            return "|".join(
                literal(json.dumps(value, ensure_ascii=False)) for value in schema["enum"]
            )
        match schema.get("type"):
            case None:
                return _anything(_DEPTH)
            case "string" if "pattern" in schema:
                return f'"(?:{schema["pattern"]})"'
            case "integer" | "number" as kind if len(schema) > 1:
                return _number(kind, schema)
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
            case kind:
                return _SCALAR[kind]

    def _definition(self, name: str) -> str:
        if name in self._open:
            raise GrammarError("a $ref that leads back to itself is no regular expression")
        if name not in self._written:
            self._open.add(name)
            self._written[name] = self._schema(self._definitions[name])
            self._open.remove(name)
        return self._written[name]

    # ===== lists and objects =====

    def _array(self, schema: Schema) -> str:
        prefix = [self.any_of(each) for each in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        others = schema.get("items", {})
        if others is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None and most < least:
            raise GrammarError("minItems and maxItems leave no list")
        item = "" if others is False else self.any_of(others)
        if not prefix:
            return rf"\[{_listed(item, least, most)}\]"
        listed = ""
        if most is None or most > len(prefix):
            count = _count(max(least - len(prefix), 0), most and most - len(prefix))
            listed = f"(?:, {item}){count}"
        for place in reversed(range(len(prefix[:most]))):
            separator = ", " if place else ""
            listed = f"(?:{separator}{prefix[place]}{listed}){'?' if place >= least else ''}"
        return rf"\[{listed}\]"

    def _object(self, schema: Schema) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        other = self._other_member(schema)
        if not properties:
            if least > (most if most is not None else least) or (other is None and least):
                raise GrammarError("minProperties and maxProperties leave no object")
            return rf"\{{{_listed(other, least, most) if other else ''}\}}"
        if least > len(required):
            raise GrammarError("minProperties beside properties is no regular expression")
        if most is not None and (other or most < len(properties)):
            raise GrammarError("maxProperties beside properties is no regular expression")
        listed = [
            (
                f"{literal(json.dumps(name, ensure_ascii=False))}: {self.any_of(each)}",
                name in required,
            )
            for name, each in properties.items()
        ]
        return rf"\{{{_members(listed, other)}\}}"

    def _other_member(self, schema: Schema) -> str | None:
        """A name that is not among the properties, and its value."""
        for pattern, value in schema.get("patternProperties", {}).items():
            return f'"(?:{pattern})": {self.any_of(value)}'
        others = schema["additionalProperties"]
        if others is False:
            return None
        if "propertyNames" in schema:
            name = f'"(?:{schema["propertyNames"]["pattern"]})"'
        else:
            name = _STRING
        return f"{name}: {self.any_of({} if others is True else others)}"


def _members(listed: list[tuple[str, bool]], other: str | None) -> str:
    """Members in their order, those that must be there and those that may, and then others."""
    first = next((i for i, (_, is_required) in enumerate(listed) if is_required), None)
    behind = f"(?:, {other})*" if other else ""
    if first is not None:
        before = "".join(f"(?:{member}, )?" for member, _ in listed[:first])
        return before + listed[first][0] + _following(listed[first + 1 :]) + behind
    beginnings = [
        member + _following(listed[i + 1 :]) + behind for i, (member, _) in enumerate(listed)
    ]
    return f"(?:{'|'.join([*beginnings, _listed(other, 0, None) if other else ''])})"


def _following(listed: list[tuple[str, bool]]) -> str:
    return "".join(f"(?:, {member}){'' if must else '?'}" for member, must in listed)


def _listed(member: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    listed = f"{member}(?:, {member}){_count(max(least - 1, 0), most and most - 1)}"
    return listed if least else f"(?:{listed})?"


def _count(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


# ===== values without structure, or without a schema =====


def _number(kind: str, schema: Schema) -> str:
    if "multipleOf" in schema:
        raise GrammarError("multipleOf is no regular expression")
    lows = [
        Bound(_decimal(schema[key]), key == "exclusiveMinimum") for key in _LOWS & schema.keys()
    ]
    highs = [
        Bound(_decimal(schema[key]), key == "exclusiveMaximum") for key in _HIGHS & schema.keys()
    ]
    low = max(lows, key=lambda bound: (bound.value, bound.is_open), default=None)
    high = min(highs, key=lambda bound: (bound.value, not bound.is_open), default=None)
    if kind == "number":
        written = number_regex(low, high)
    else:
        least = low and (math.floor(low.value) + 1 if low.is_open else math.ceil(low.value))
        most = high and (math.ceil(high.value) - 1 if high.is_open else math.floor(high.value))
        written = integer_regex(least, most)
    if written is None:
        raise GrammarError(f"no {kind} is in the range of {shown(schema)}")
    return written


_LOWS = {"minimum", "exclusiveMinimum"}
_HIGHS = {"maximum", "exclusiveMaximum"}


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))


def _anything(depth: int) -> str:
    """Any value whose lists and objects are no deeper than `depth`."""
    values = [f"(?:{scalar})" for scalar in _SCALAR.values() if scalar != _INTEGER]
    if depth:
        inner = f"(?:{_anything(depth - 1)})"
        values.append(rf"\[{_listed(inner, 0, None)}\]")
        values.append(rf"\{{{_listed(f'{_STRING}: {inner}', 0, None)}\}}")
    return "|".join(values)
