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
from typing import Any
from urllib.parse import unquote

from .base import GrammarError, shown
from .formats import BOUNDED_FORMATS, FORMATS
from .schema_values import (
    TYPES,
    Schema,
    Values,
    as_count,
    as_list,
    as_object,
    both,
    differ,
    listed_values,
    number_schema,
)

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
_CHOICES = ("anyOf", "oneOf", "allOf", "$ref", "enum", "const")
_VALIDATION = frozenset({"type", *_CHOICES}.union(*_KEYWORDS.values()))
_REFUSED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
)


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
        """A canonical schema: `Values`, or an object."""
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
                parts = [self._resolved(part)] if choice == "$ref" else as_list(choice, part)
                return self._schema(self._merged([given, *parts]))
        for choice in ("anyOf", "oneOf"):
            if choice in given:
                branches = [
                    each for each in as_list(choice, given.pop(choice)) if each is not False
                ]
                return self._choice(choice, [self._merged([given, each]) for each in branches])
        if "const" in given or "enum" in given:
            return listed_values(given)
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
                    merged[key] = both(key, merged[key], value) if key in merged else value
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
                if any(not differ(kind, other) for other in kinds[:i]):
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
            types = [kind for kind in TYPES if _KEYWORDS.get(kind, set()) & given.keys()]
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
        if kind not in TYPES:
            raise GrammarError(f"type {shown(kind)} is unknown; {', '.join(TYPES)} are")
        own = {key: given[key] for key in _KEYWORDS.get(kind, ()) if key in given}
        match kind:
            case "string":
                return self._string(own)
            case "integer" | "number":
                return number_schema(kind, own)
            case "array":
                return self._array(own)
            case "object":
                return self._object(own)
        return {"type": kind}

    def _string(self, given: Schema) -> Schema:
        least = as_count("minLength", given.get("minLength", 0))
        most = given.get("maxLength")
        most = None if most is None else as_count("maxLength", most)
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
        counts = {
            key: as_count(key, given[key]) for key in ("minItems", "maxItems") if key in given
        }
        items = given.get("items", True)
        prefix = given.get("prefixItems", [])
        if isinstance(items, list):  # as drafts before 2020-12 have it
            prefix, items = items, given.get("additionalItems", True)
        prefix = as_list("prefixItems", prefix)[: counts.get("maxItems")]
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
        properties = dict(as_object("properties", given.get("properties", {})))
        required = as_list("required", given.get("required", []))
        others = given.get("additionalProperties")
        patterns = as_object("patternProperties", given.get("patternProperties", {}))
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
            if isinstance(names, Values):
                allowed = [name for name in names.values if isinstance(name, str)]
                properties = dict.fromkeys(allowed, True if others is None else others)
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
                written[key] = as_count(key, given[key])
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


def _names_all(schema: Schema) -> bool:
    return "additionalProperties" in schema or "patternProperties" in schema


def _objects(value: Any) -> Iterator[Schema]:
    """All JSON objects in a document."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _objects(each)
