"""JSON schemas as a backend takes them without loss: what it would pass over is refused by name.

The backend reads less of JSON schema than there is, and is silent about the rest. So a schema is
written anew, from few words: one type at a time, strings as patterns, choices that stand alone.
What comes out allows nothing that the schema does not. It may allow less: an object that lists its
properties has no others, unless `additionalProperties` says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from .base import GrammarError, shown
from .formats import BOUNDED_FORMATS, FORMATS

Schema = dict[str, Any]

# Validation that belongs to one type; a schema with it that names no type is for that type.
_KEYWORDS = {
    "string": {"pattern", "format", "minLength", "maxLength"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"},
    "object": {
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties"),
    },
}
_KEYWORDS["integer"] = _KEYWORDS["number"]
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_CHOICES = ("anyOf", "oneOf", "allOf", "$ref", "enum", "const")
_VALIDATION = frozenset({"type", *_CHOICES}.union(*_KEYWORDS.values()))
_REFUSED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
)
# Multiples within bounds are listed, if they are not more.
_MOST_MULTIPLES = 1000


# Writes a string's `pattern`, and how many characters it has at least and at most, as the backend
# is to have it.
WritePattern = Callable[[str, int, int | None], str]
# Writes a schema of these values, none other, as `json.dumps` writes them.
WriteValues = Callable[[list[Any]], Schema]


def _as_enum(values: list[Any]) -> Schema:
    return {"enum": values}


def canonical_schema(
    text: str, write_pattern: WritePattern, write_values: WriteValues = _as_enum
) -> str:
    """The JSON schema in `text`, in few words. Raises GrammarError or UnicodeEncodeError."""
    try:
        root = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        raise GrammarError(f"it is not JSON: {error}") from error
    document = _Canonical(root, write_pattern).document()
    written = json.dumps(
        document, ensure_ascii=False, default=lambda each: write_values(each.values)
    )
    written.encode()  # half of a surrogate pair cannot be written
    return written


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


@dataclass(frozen=True)
class _Values:
    """A canonical schema that stands for `enum` and `const`, and is written last."""

    values: list[Any]


class _Canonical:
    """Writes one document anew; each place that a `$ref` names becomes an entry of `$defs`."""

    def __init__(self, root: Any, write_pattern: WritePattern) -> None:
        self._root = root
        self._write_pattern = write_pattern
        self._names: dict[str, str] = {}
        self._definitions: dict[str, Any] = {}

    def document(self) -> Any:
        document = self._schema(self._root)
        return {**document, "$defs": self._definitions} if self._definitions else document

    def _schema(self, schema: Any) -> Any:
        """A canonical schema: `_Values`, or an object."""
        if schema is True:
            return {}
        if schema is False:
            raise GrammarError("the schema false allows nothing")
        if not isinstance(schema, dict):
            raise GrammarError(f"a schema must be an object, not {shown(schema)}")
        given = self._validation(schema)
        if "$ref" in given and len(given) == 1:
            return {"$ref": f"#/$defs/{self._definition(given['$ref'])}"}
        for choice in ("$ref", "allOf"):
            if choice in given:
                part = given.pop(choice)
                parts = [self._resolved(part)] if choice == "$ref" else _list(choice, part)
                return self._schema(self._merged([given, *parts]))
        for choice in ("anyOf", "oneOf"):
            if choice in given:
                branches = [each for each in _list(choice, given.pop(choice)) if each is not False]
                return self._choice(choice, [self._merged([given, each]) for each in branches])
        if "const" in given or "enum" in given:
            return _values(given)
        return self._typed(given)

    def _validation(self, schema: Schema) -> Schema:
        """The keywords that say what is valid: the others are notes."""
        for keyword in _REFUSED:
            if keyword in schema:
                raise GrammarError(f"{keyword} is not supported")
        if schema.get("uniqueItems") not in (None, False):
            raise GrammarError("uniqueItems is not supported")
        return {key: value for key, value in schema.items() if key in _VALIDATION}

    # ===== references =====

    def _definition(self, pointer: Any) -> str:
        name = self._names.get(pointer) if isinstance(pointer, str) else None
        if name is None:
            target = self._resolved(pointer)
            name = self._names[pointer] = str(len(self._names))
            self._definitions[name] = self._schema(target)
        return name

    def _resolved(self, pointer: Any) -> Any:
        """What a JSON pointer into the document, or the name of an anchor in it, names."""
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise GrammarError(f"$ref {shown(pointer)}: only references like #/$defs/NAME work")
        anchor, *steps = unquote(pointer[1:]).split("/")
        target = self._root
        if anchor:
            target = next((each for each in _objects(target) if each.get("$anchor") == anchor), {})
            steps = steps if target else ["$anchor"]
        for step in steps:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(step)] if isinstance(target, list) else target[step]
            except (KeyError, IndexError, TypeError, ValueError):
                raise GrammarError(f"$ref {shown(pointer)} leads nowhere") from None
        return target

    # ===== all of several schemas, or one of them =====

    def _merged(self, parts: list[Any]) -> Schema:
        """One schema for what all `parts` allow, as far as they do not speak of the same."""
        merged: Schema = {}
        for part in parts:
            if part is True:
                continue
            if not isinstance(part, dict):
                raise GrammarError(f"a schema must be an object, not {shown(part)}")
            for key, value in self._validation(part).items():
                if key == "$ref" and value != merged.get(key, value):
                    merged["allOf"] = [*merged.get("allOf", ()), {key: value}]
                else:
                    merged[key] = _both(key, merged[key], value) if key in merged else value
        closed = [part for part in parts if isinstance(part, dict) and _names_all(part)]
        if closed and sum(isinstance(part, dict) and "properties" in part for part in parts) > 1:
            raise GrammarError("additionalProperties beside properties of another schema")
        return merged

    def _choice(self, keyword: str, branches: list[Schema]) -> Any:
        if not branches:
            raise GrammarError(f"{keyword} allows nothing")
        written = [self._schema(branch) for branch in branches]
        if len(written) == 1:
            return written[0]
        if keyword == "oneOf":
            kinds = [self._kind(each) for each in written]
            for i, kind in enumerate(kinds):
                if any(not _differ(kind, other) for other in kinds[:i]):
                    raise GrammarError("oneOf whose choices may hold together is not supported")
        return {"anyOf": written}

    def _kind(self, schema: Any) -> Any:
        """A canonical schema without references at its top."""
        while isinstance(schema, dict) and "$ref" in schema:
            schema = self._definitions.get(schema["$ref"].removeprefix("#/$defs/"), {})
        return schema

    # ===== schemas of one type =====

    def _typed(self, given: Schema) -> Schema:
        types = given.get("type")
        if types is None:
            types = [kind for kind in _TYPES if _KEYWORDS.get(kind, set()) & given.keys()]
            types = [kind for kind in types if kind != "integer"]
        elif isinstance(types, str):
            types = [types]
        if not isinstance(types, list):
            raise GrammarError(f"type must be a string or a list, not {shown(types)}")
        if not types and "type" not in given:
            return {}
        if not types:
            raise GrammarError("schemas of different types that must both hold allow nothing")
        written = [self._one_type(kind, given) for kind in types]
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _one_type(self, kind: Any, given: Schema) -> Any:
        if kind not in _TYPES:
            raise GrammarError(f"type {shown(kind)} is unknown; {', '.join(_TYPES)} are")
        own = {key: given[key] for key in _KEYWORDS.get(kind, ()) if key in given}
        match kind:
            case "string":
                return self._string(own)
            case "integer" | "number":
                return _number(kind, own)
            case "array":
                return self._array(own)
            case "object":
                return self._object(own)
        return {"type": kind}

    def _string(self, given: Schema) -> Schema:
        least = _count("minLength", given.get("minLength", 0))
        most = given.get("maxLength")
        most = None if most is None else _count("maxLength", most)
        pattern = given.get("pattern")
        if "format" in given:
            if pattern is not None:
                raise GrammarError("format beside pattern is not supported")
            name = given["format"]
            if not isinstance(name, str) or name not in FORMATS:
                raise GrammarError(
                    f"format {shown(name)} is not supported; {', '.join(FORMATS)} are"
                )
            pattern = FORMATS[name] if most is None else BOUNDED_FORMATS.get(name, FORMATS[name])
        if pattern is None:
            if not least and most is None:
                return {"type": "string"}
            pattern = r"[^\0]*"
        if not isinstance(pattern, str):
            raise GrammarError(f"pattern must be a string, not {shown(pattern)}")
        return {"type": "string", "pattern": self._write_pattern(pattern, least, most)}

    def _array(self, given: Schema) -> Schema:
        counts = {key: _count(key, given[key]) for key in ("minItems", "maxItems") if key in given}
        items = given.get("items", True)
        prefix = given.get("prefixItems", [])
        if isinstance(items, list):  # as drafts before 2020-12 have it
            prefix, items = items, given.get("additionalItems", True)
        prefix = _list("prefixItems", prefix)[: counts.get("maxItems")]
        if prefix and items is True and counts.get("minItems", 0) <= len(prefix):
            items = False
        written: Schema = {
            "type": "array",
            "items": items if items is False else self._schema(items),
        }
        if prefix:
            written["prefixItems"] = [self._schema(each) for each in prefix]
        return {**written, **counts}

    def _object(self, given: Schema) -> Schema:
        written: Schema = {"type": "object"}
        properties = dict(_object("properties", given.get("properties", {})))
        required = _list("required", given.get("required", []))
        others = given.get("additionalProperties")
        patterns = _object("patternProperties", given.get("patternProperties", {}))
        for name in required:
            if not isinstance(name, str):
                raise GrammarError(f"required must be a list of names, not {shown(required)}")
            if name not in properties:
                if others is False or patterns:
                    raise GrammarError(f"required {shown(name)} is not among the properties")
                properties[name] = {} if others is None else others
        if "propertyNames" in given:
            if properties or patterns:
                raise GrammarError("propertyNames beside properties is not supported")
            names = self._schema(given["propertyNames"])
            if isinstance(names, _Values):
                properties = dict.fromkeys(names.values, True if others is None else others)
                others = False
            elif "pattern" in names:
                written["propertyNames"] = names
            else:
                raise GrammarError("propertyNames is supported with pattern, length or enum alone")
        is_open = others not in (None, False) or not (properties or patterns)
        if patterns:
            written["patternProperties"] = self._patterns(patterns, properties, others)
        elif is_open and properties:
            pattern = self._write_pattern(_none_of(properties), 0, None)
            written["patternProperties"] = {pattern: self._schema(others)}
            others = False
        if not is_open:
            properties = {k: v for k, v in properties.items() if v is not False or k in required}
        if properties:
            written["properties"] = {k: self._schema(v) for k, v in properties.items()}
        if required:
            written["required"] = required
        if not isinstance(others, bool | None):
            others = self._schema(others)
        written["additionalProperties"] = is_open if others is None else others
        for key in ("minProperties", "maxProperties"):
            if key in given:
                written[key] = _count(key, given[key])
        if (is_open or patterns) and written.get("minProperties", 0) > len(required) + 1:
            raise GrammarError("minProperties is supported where the properties are listed alone")
        return written

    def _patterns(self, patterns: Schema, properties: Schema, others: Any) -> Schema:
        if len(patterns) > 1 or others not in (None, False):
            raise GrammarError("patternProperties is supported for one pattern alone")
        ((pattern, schema),) = patterns.items()
        names = self._write_pattern(pattern, 0, None)
        if any(re.search(pattern, name) for name in properties):
            raise GrammarError("patternProperties that match one of the properties")
        return {names: self._schema(schema)}


def _none_of(names: Iterable[str]) -> str:
    """A pattern of all other names."""
    tails: dict[str, list[str]] = {}  # by their first characters
    for name in names:
        if name:
            tails.setdefault(name[0], []).append(name[1:])
    firsts = "".join(map(re.escape, tails))
    others = f"[^{firsts}][^\0]*" if tails else r"[^\0]+"
    begun = (f"{re.escape(first)}(?:{_none_of(each)})" for first, each in tails.items())
    return "|".join([*([] if "" in names else [""]), others, *begun])


def _number(kind: str, given: Schema) -> Any:
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
    return _Values(values)


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


def _values(given: Schema) -> _Values:
    values = _list("enum", given["enum"]) if "enum" in given else [given["const"]]
    if "enum" in given and "const" in given:
        values = [value for value in values if _same(value, given["const"])]
    others = given.keys() - {"enum", "const", "type"}
    if others:
        raise GrammarError(f"{min(others)} beside enum or const is not supported")
    types = given.get("type", _TYPES)
    types = [types] if isinstance(types, str) else types
    values = [value for value in values if any(_is_of(value, kind) for kind in types)]
    if not values:
        raise GrammarError("enum or const leaves no value")
    return _Values(values)


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


def _both(key: str, value: Any, other: Any) -> Any:
    """The value of a keyword that two schemas have, both of which hold."""
    if key == "required":
        return list(dict.fromkeys([*_list(key, value), *_list(key, other)]))
    if key == "properties":
        value, other = _object(key, value), _object(key, other)
        shared = [name for name in value.keys() & other.keys() if value[name] != other[name]]
        if not shared:
            return {**value, **other}
        raise GrammarError(f"allOf with property {shown(min(shared))} twice is not supported")
    if value == other:
        return value
    if key == "allOf":
        return [*_list(key, value), *_list(key, other)]
    if key == "enum":
        return [
            each for each in _list(key, value) if any(_same(each, o) for o in _list(key, other))
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


def _names_all(schema: Schema) -> bool:
    return "additionalProperties" in schema or "patternProperties" in schema


def _differ(schema: Any, other: Any) -> bool:
    """Whether no value is allowed by both canonical schemas, as far as is easily seen."""
    kinds, others = _kinds(schema), _kinds(other)
    if kinds is not None and others is not None and not kinds & others:
        return True
    if isinstance(schema, _Values) or isinstance(other, _Values):
        return _differ_as_values(schema, other)
    shared = set(schema.get("required", ())) & set(other.get("required", ()))
    properties, theirs = schema.get("properties", {}), other.get("properties", {})
    return kinds == others == {"object"} and any(
        _differ_as_values(properties[name], theirs[name]) for name in shared
    )


def _differ_as_values(schema: Any, other: Any) -> bool:
    if not isinstance(schema, _Values) or not isinstance(other, _Values):
        return False
    return not any(_same(a, b) for a in schema.values for b in other.values)


def _kinds(schema: Any) -> set[str] | None:
    """The types of what a canonical schema allows; None: unknown. Integers are numbers."""
    if isinstance(schema, _Values):
        return {next(k for k in _TYPES if k != "integer" and _is_of(v, k)) for v in schema.values}
    if "type" in schema:
        return {"number" if schema["type"] == "integer" else schema["type"]}
    if "anyOf" in schema:
        kinds = [_kinds(each) for each in schema["anyOf"]]
        return None if None in kinds else set().union(*(kind for kind in kinds if kind))
    return None


def _objects(value: Any) -> Iterator[Schema]:
    """All JSON objects in a document."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _objects(each)


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise GrammarError(f"{key} must be a list, not {shown(value)}")
    return value


def _object(key: str, value: Any) -> Schema:
    if not isinstance(value, dict):
        raise GrammarError(f"{key} must be an object, not {shown(value)}")
    return value


def _count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise GrammarError(f"{key} must be a whole number, not {shown(value)}")
    if value < 0:
        raise GrammarError(f"{key} must not be negative, and is {shown(value)}")
    return int(value)
