"""What comes out under a JSON schema is valid, by an independent validator."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from worker.grammar.base import GrammarError
from worker.grammar.json_schema import canonical_schema
from worker.grammar.pattern import bounded_pattern
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from .walk import BYTES, random_text

INTEGER = {"type": "integer"}
BOOLEAN = {"type": "boolean"}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": INTEGER,
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
}
SHAPES = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "size": {"type": size}},
            "required": ["kind", "size"],
        }
        for kind, size in (("circle", "integer"), ("square", "boolean"))
    ]
}

SCHEMAS: dict[str, Any] = {
    "anything": True,
    "any object": {"type": "object"},
    "any array": {"type": "array"},
    "object": {"type": "object", "properties": {"a": INTEGER, "b": BOOLEAN}, "required": ["b"]},
    "no type": {"properties": {"a": {"minimum": 3}}, "required": ["a", "b"]},
    "closed": {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": False},
    "others": {
        "type": "object",
        "properties": {"a": INTEGER},
        "required": ["a", "b"],
        "additionalProperties": BOOLEAN,
    },
    "pattern of names": {"type": "object", "patternProperties": {"^x[0-9]$": BOOLEAN}},
    "names": {
        "propertyNames": {"minLength": 2, "maxLength": 3},
        "additionalProperties": INTEGER,
        "type": "object",
    },
    "count of properties": {
        "type": "object",
        "properties": {"a": BOOLEAN, "b": BOOLEAN, "c": BOOLEAN},
        "minProperties": 2,
    },
    "names to escape": {
        "type": "object",
        "properties": {'é☃"\\\n': {"type": "null"}},
        "required": ['é☃"\\\n'],
    },
    "items": {"type": "array", "items": BOOLEAN, "minItems": 2, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [BOOLEAN, INTEGER], "items": False, "minItems": 1},
    "string": {"type": "string"},
    "length": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": '^[^a-f"]{1,4}@\\w\\.(com|org)$'},
    "any character": {"type": "string", "pattern": "^..$"},
    "quotes": {"type": "string", "pattern": '^"\\\\\n\\^[!^]$'},
    "escapes that repeat": {"type": "string", "pattern": '^\n{2}[\\n"]{2,3}x$'},
    "pattern and length": {"type": "string", "pattern": "^[a-z]*$", "minLength": 2, "maxLength": 5},
    "no letter": {"type": "string", "pattern": "^\\W\\D\\S$"},
    "range": {"type": "integer", "minimum": -3, "exclusiveMaximum": 12},
    "real range": {"type": "number", "minimum": 1.5, "maximum": 2.5},
    "multiples": {"type": "integer", "multipleOf": 7},
    "types": {"type": ["string", "integer", "null"], "maxLength": 2, "minimum": 5},
    "enum": {"enum": [1, "a", None, {"x": 1}, [1, 2], 'é"']},
    "enum of a type": {"type": "string", "enum": ["a", 1]},
    "const": {"const": {"a": [1, "b"]}},
    "anyOf": {"anyOf": [INTEGER, {"type": "string", "maxLength": 3}]},
    "anyOf beside others": {
        "type": "object",
        "properties": {"a": INTEGER},
        "anyOf": [{"required": ["a"]}, {"properties": {"b": BOOLEAN}, "required": ["b"]}],
    },
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            {"properties": {"b": BOOLEAN}, "required": ["b"]},
        ]
    },
    "allOf of ranges": {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 7}]},
    "oneOf by type": {"oneOf": [INTEGER, {"type": "string"}, {"enum": [True]}]},
    "oneOf by property": SHAPES,
    "recursion": TREE,
    "reference beside others": {
        "$ref": "#/definitions/n",
        "minimum": 5,
        "definitions": {"n": INTEGER},
    },
    **{
        name: {"type": "string", "format": name}
        for name in ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
    },
    "time": {"type": "string", "format": "time"},
    "uri": {"type": "string", "format": "uri"},
}


# What a backend refuses, too.
REFUSED = {
    "xgrammar": {},
    "llguidance": {"names": "propertyNames", "count of properties": "min"},
    "outlines": {
        "count of properties": "min",
        "multiples": "multipleOf",
        "recursion": "back to itself",
    },
}


@pytest.fixture(scope="module", params=REFUSED)
def backend(request):
    return grammar_backend(request.param, BYTES)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_comes_out_is_valid(request, backend, name):
    schema = SCHEMAS[name]
    spec = GrammarSpec("json_schema", json.dumps(schema))
    reason = REFUSED[request.node.callspec.params["backend"]].get(name)
    if reason is not None:
        with pytest.raises(GrammarError, match=reason):
            backend.compile(spec)
        return
    grammar = backend.load(backend.compile(spec))
    formats = None if name == "time" else jsonschema.FormatChecker()  # it knows an older one
    validator = jsonschema.Draft202012Validator(schema, format_checker=formats)
    rng = random.Random(name)
    texts = [text for _ in range(60) if (text := random_text(grammar, rng)) is not None]
    assert len(texts) > 5
    for text in texts:
        validator.validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "allows nothing"),
        ([1], "a schema must be an object"),
        ({"type": "bogus"}, "bogus"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"const": 1}}, "not is not supported"),
        ({"if": {}, "then": {}}, "if is not supported"),
        ({"contains": INTEGER}, "contains"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "number", "multipleOf": 0.5}, "multipleOf"),
        ({"oneOf": [{"minimum": 0}, {"maximum": 5}]}, "oneOf"),
        ({"oneOf": [{"$ref": "#/$defs/a"}, INTEGER], "$defs": {"a": INTEGER}}, "oneOf"),
        ({"$ref": "http://example.com/schema"}, "only references like"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$dynamicRef": "#x"}, "dynamicRef"),
        ({"type": "string", "format": "bogus"}, 'format "bogus"'),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "^a+b$", "maxLength": 3}, "length"),
        ({"type": "string", "minLength": -1}, "must not be negative"),
        ({"type": "string", "minLength": "2"}, "whole number"),
        ({"enum": []}, "no value"),
        ({"enum": ["abc"], "maxLength": 2}, "maxLength beside enum"),
        ({"type": "integer", "const": "a"}, "no value"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"properties": {"a": {}}, "patternProperties": {"^a": {}}}, "match one of"),
        (
            {
                "allOf": [
                    {"properties": {"a": {}}, "additionalProperties": False},
                    {"properties": {"b": {}}},
                ]
            },
            "additionalProperties",
        ),
    ],
)
def test_what_would_be_passed_over_is_refused_by_name(schema, reason):
    with pytest.raises(GrammarError, match=reason.replace("(", r"\(")):
        canonical_schema(json.dumps(schema), bounded_pattern)


def test_it_has_to_be_json():
    with pytest.raises(GrammarError, match="not JSON"):
        canonical_schema("{nope", bounded_pattern)


def test_an_objects_keys_come_in_the_order_of_the_schema(backend):
    schema = {"type": "object", "properties": {"b": BOOLEAN, "a": BOOLEAN}, "required": ["b", "a"]}
    grammar = backend.load(backend.compile(GrammarSpec("json_schema", json.dumps(schema))))
    assert random_text(grammar, random.Random(0)) in (
        *(f'{{"b": {b}, "a": {a}}}'.encode() for a in ("true", "false") for b in ("true", "false")),
    )
