"""JSON schemas as a backend takes them without loss: what it would pass over is refused by name.

The backend reads less of JSON schema than there is, and is silent about the rest. So a schema is
written anew, from few words: one type at a time, strings as patterns, choices that stand alone.
What comes out allows nothing that the schema does not. It may allow less: an object that lists its
properties has no others, unless `additionalProperties` says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from .base import GrammarError, shown
from .formats import FORMATS

Schema = dict[str, Any]

# Validation that belongs to one type; a schema with it that names no type is for that type.
_KEYWORDS = {
    "string": {"pattern", "format", "minLength", "maxLength"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
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
    *("$dynamicRef", "$recursiveRef", "additionalItems"),
)


# Writes a string's `pattern`, and how many characters it has at least and at most, as the backend
# is to have it.
WritePattern = Callable[[str, int, int | None], str]


def canonical_schema(text: str, write_pattern: WritePattern) -> str:
    """The JSON schema in `text`, in few words. Raises GrammarError."""
    try:
        root = json.loads(text)
    except ValueError as error:
        raise GrammarError(f"it is not JSON: {error}") from error
    return json.dumps(_Canonical(root, write_pattern).document(), ensure_ascii=False)


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

    def _schema(self, schema: Any) -> Schema:
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
                branches = _list(choice, given.pop(choice))
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
        """What a JSON pointer into the document names."""
        if not isinstance(pointer, str) or not re.match(r"#(/|$)", pointer):
            raise GrammarError(f"$ref {shown(pointer)}: only references like #/$defs/NAME work")
        target = self._root
        for step in pointer.split("/")[1:]:
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
                merged[key] = _both(key, merged[key], value) if key in merged else value
        closed = [part for part in parts if isinstance(part, dict) and _names_all(part)]
        if closed and sum(isinstance(part, dict) and "properties" in part for part in parts) > 1:
            raise GrammarError("additionalProperties beside properties of another schema")
        return merged

    def _choice(self, keyword: str, branches: list[Schema]) -> Schema:
        written = [self._schema(branch) for branch in branches]
        if len(written) == 1:
            return written[0]
        if keyword == "oneOf":
            kinds = [self._kind(each) for each in written]
            for i, kind in enumerate(kinds):
                if any(not _differ(kind, other) for other in kinds[:i]):
                    raise GrammarError("oneOf whose choices may hold together is not supported")
        return {"anyOf": written}

    def _kind(self, schema: Schema) -> Schema:
        """A canonical schema without references at its top."""
        while "$ref" in schema:
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
        written = [self._one_type(kind, given) for kind in types]
        if not written:
            return {}
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _one_type(self, kind: Any, given: Schema) -> Schema:
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
            pattern = FORMATS.get(given["format"]) if isinstance(given["format"], str) else None
            if pattern is None:
                known = ", ".join(FORMATS)
                raise GrammarError(f"format {shown(given['format'])} is not supported; {known} are")
        if pattern is None:
            if not least and most is None:
                return {"type": "string"}
            pattern = r"[^\0]*"
        if not isinstance(pattern, str):
            raise GrammarError(f"pattern must be a string, not {shown(pattern)}")
        return {"type": "string", "pattern": self._write_pattern(pattern, least, most)}

    def _array(self, given: Schema) -> Schema:
        written: Schema = {"type": "array"}
        if "prefixItems" in given:
            prefix = _list("prefixItems", given["prefixItems"])
            written["prefixItems"] = [self._schema(each) for each in prefix]
        if "items" in given:
            items = given["items"]
            written["items"] = items if items is False else self._schema(items)
        for key in ("minItems", "maxItems"):
            if key in given:
                written[key] = _count(key, given[key])
        return written

    def _object(self, given: Schema) -> Schema:
        written: Schema = {"type": "object"}
        properties = dict(_object("properties", given.get("properties", {})))
        required = _list("required", given.get("required", []))
        others = given.get("additionalProperties")
        patterns = _object("patternProperties", given.get("patternProperties", {}))
        for name in required:
            if name not in properties:
                if others is False or patterns:
                    raise GrammarError(f"required {shown(name)} is not among the properties")
                properties[name] = {} if others is None else others
        if "propertyNames" in given:
            if properties or patterns:
                raise GrammarError("propertyNames beside properties is not supported")
            names = self._schema(given["propertyNames"])
            if "pattern" not in names:
                raise GrammarError("propertyNames is supported with a pattern or a length alone")
            written["propertyNames"] = names
        if patterns:
            written["patternProperties"] = self._patterns(patterns, properties, others)
        if properties:
            written["properties"] = {k: self._schema(v) for k, v in properties.items()}
        if required:
            written["required"] = required
        is_open = others not in (None, False) or not (properties or patterns)
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


def _number(kind: str, given: Schema) -> Schema:
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GrammarError(f"{key} must be a number, not {shown(value)}")
    if "multipleOf" in given and (kind == "number" or not isinstance(given["multipleOf"], int)):
        raise GrammarError("multipleOf is supported for integers alone")
    return {"type": kind, **given}


def _values(given: Schema) -> Schema:
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
    return {"enum": values}


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
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        return max(value, other)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
        return min(value, other)
    if key == "type":
        mine = [value] if isinstance(value, str) else value
        theirs = [other] if isinstance(other, str) else other
        return [kind for kind in mine if kind in theirs]
    raise GrammarError(f"two schemas with {key} that must both hold are not supported")


def _names_all(schema: Schema) -> bool:
    return "additionalProperties" in schema or "patternProperties" in schema


def _differ(schema: Schema, other: Schema) -> bool:
    """Whether no value is allowed by both canonical schemas, as far as is easily seen."""
    kinds, others = _kinds(schema), _kinds(other)
    if kinds is not None and others is not None and not kinds & others:
        return True
    if "enum" in schema and "enum" in other:
        return not any(_same(a, b) for a in schema["enum"] for b in other["enum"])
    shared = set(schema.get("required", ())) & set(other.get("required", ()))
    properties, theirs = schema.get("properties", {}), other.get("properties", {})
    return kinds == others == {"object"} and any(
        "enum" in properties[name]
        and "enum" in theirs[name]
        and _differ(properties[name], theirs[name])
        for name in shared
    )


def _kinds(schema: Schema) -> set[str] | None:
    """The types of what a canonical schema allows; None: unknown. Integers are numbers."""
    if "enum" in schema:
        return {next(k for k in _TYPES if k != "integer" and _is_of(v, k)) for v in schema["enum"]}
    if "type" in schema:
        return {"number" if schema["type"] == "integer" else schema["type"]}
    if "anyOf" in schema:
        kinds = [_kinds(each) for each in schema["anyOf"]]
        return None if None in kinds else set().union(*(kind for kind in kinds if kind))
    return None


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
