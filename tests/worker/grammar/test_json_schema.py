"""What comes out under a JSON schema is valid, by an independent validator."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from worker.grammar.base import CompiledGrammar, GrammarBackend, GrammarError
from worker.grammar.json_schema import canonical_schema
from worker.grammar.pattern import bounded_pattern
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from .collection.refusals import BY_BACKEND as BACKENDS
from .walk import BYTES, accepts, random_text

INTEGER = {"type": "integer"}
BOOLEAN = {"type": "boolean"}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return grammar_backend(request.param, BYTES)


def compiled(backend: GrammarBackend, schema: Any) -> CompiledGrammar:
    return backend.load(backend.compile(GrammarSpec("json_schema", json.dumps(schema))))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ([1], "a schema must be an object"),
        ({"type": "bogus"}, "bogus"),
        ({"oneOf": [{"$ref": "#/$defs/a"}, INTEGER], "$defs": {"a": INTEGER}}, "oneOf"),
        ({"$ref": "#no-anchor"}, "leads nowhere"),
        ({"type": "string", "minLength": -1}, "must not be negative"),
        ({"type": "string", "minLength": "2"}, "whole number"),
        ({"type": "number", "minimum": float("inf")}, "Infinity is no finite number"),
        ({"type": "array", "minItems": float("nan")}, "NaN is no finite number"),
        ({"required": ["a", {}]}, "a list of names"),
        ({"enum": []}, "no value"),
        ({"enum": ["abc"], "maxLength": 2}, "maxLength beside enum"),
        ({"type": "integer", "const": "a"}, "no value"),
        ({"type": "integer", "multipleOf": 0}, "positive integer"),
        ({"type": "integer", "multipleOf": 2.5}, "positive integer"),
        ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}, "allow nothing"),
        ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 9999}, "few values"),
        ({"properties": {"a": False}, "required": ["a"]}, "allows nothing"),
        ({"properties": {"a": False}, "additionalProperties": True}, "allows nothing"),
        ({"anyOf": [False, False]}, "anyOf allows nothing"),
    ],
)
def test_what_would_be_passed_over_is_refused_by_name(schema, reason):
    with pytest.raises(GrammarError, match=reason.replace("(", r"\(")):
        canonical_schema(json.dumps(schema), bounded_pattern)


@pytest.mark.parametrize("text", ["{nope", '{"const": NaN}', '{"maximum": Infinity}'])
def test_it_has_to_be_json(text):
    with pytest.raises(GrammarError, match="not JSON"):
        canonical_schema(text, bounded_pattern)


VALUES = [
    *(
        0.1,
        1.5,
        -7,
        True,
        None,
        "é\u2028",
        '"\\/\n',
        [],
        [1, "a", {"b": None}],
        {"b": 1, "a": [2]},
    ),
]
NAMES = {"type": "object", "properties": {'q"': INTEGER, "s/t": INTEGER, "ab": INTEGER}}
OPEN = {**NAMES, "additionalProperties": BOOLEAN}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        *(({"enum": VALUES}, json.dumps(value, ensure_ascii=False)) for value in VALUES),
        *((OPEN, json.dumps({name: True})) for name in ("", "a", "abc", "b", "q", "s", "x/t")),
        (OPEN, '{"ab": 1, "c": true, "d": false}'),
        ({"type": "string", "pattern": "^([ab]{3})?$"}, '""'),
        ({"type": "string", "pattern": "^([ab]{3}){2}$"}, '"abaaba"'),
        ({"type": "string"}, r'"\" \\ \b\f\n\r\t é😀"'),
        ({"type": "string", "format": "uri", "maxLength": 2083}, '"https://example.com/a/b.html"'),
        ({"type": "string", "format": "json-pointer"}, '"/a~1b/0"'),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3}, "2"),
        ({"type": "integer", "exclusiveMinimum": 0.5, "maximum": 3.5}, "3"),
        ({"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 99}, "98"),
        ({"type": "array", "minItems": 1}, '[{"a": 1}]'),
        ({"type": "array", "prefixItems": [INTEGER, BOOLEAN], "maxItems": 1}, "[5]"),
        ({"type": "array", "items": [INTEGER], "additionalItems": BOOLEAN}, "[5, true]"),
        ({"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": BOOLEAN}, '{"b": true}'),
        ({"propertyNames": {"enum": [1, "a"]}}, '{"a": 1}'),
        ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 4]}]}, "2"),
        ({"allOf": [{"anyOf": [INTEGER]}, {"allOf": [{"minimum": 5}]}, {"allOf": [{}]}]}, "6"),
        ({"$ref": "#n", "$defs": {"a b": {"$anchor": "n", "type": "boolean"}}}, "true"),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"type": "boolean"}}}, "true"),
    ],
)
def test_what_is_valid_is_allowed(backend, schema, text):
    assert accepts(compiled(backend, schema), text.encode())


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # Names of listed properties, in disguise.
        *((OPEN, text) for text in (r'{"\u0061b": true}', r'{"q\"": true}', r'{"s\/t": true}')),
        (OPEN, '{"ab": true}'),
        (OPEN, '{"q"": true}'),
        # Halves of characters.
        ({"type": "string"}, r'"\ud800"'),
        ({}, r'"\udc00"'),
        ({"type": "string"}, b'"\xed\xa0\x80"'),
        ({"type": "object", "properties": {"a": {}, "b": False}}, '{"a": 1, "b": 1}'),
        ({"enum": [{"a": 1}]}, '{"a":1}'),
        ({"anyOf": [INTEGER, False]}, "true"),
        ({"propertyNames": {"enum": [1, "a"]}}, '{"1": 1}'),
    ],
)
def test_what_is_not_valid_is_not_allowed(backend, schema, text):
    text = text if isinstance(text, bytes) else text.encode()
    assert not accepts(compiled(backend, schema), text)


def test_an_objects_keys_come_in_the_order_of_the_schema(backend):
    schema = {"type": "object", "properties": {"b": BOOLEAN, "a": BOOLEAN}, "required": ["b", "a"]}
    grammar = compiled(backend, schema)
    assert random_text(grammar, random.Random(0)) in (
        *(f'{{"b": {b}, "a": {a}}}'.encode() for a in ("true", "false") for b in ("true", "false")),
    )
