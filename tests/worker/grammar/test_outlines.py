"""What regular expressions say of JSON, and what they cannot."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from worker.grammar.base import GrammarError, Vocabulary
from worker.grammar.constraint import Constraint
from worker.grammar.json_regex import schema_regex
from worker.grammar.outlines import Outlines
from worker.messages import GrammarSpec

from .walk import BYTES, allowed

BOOLEAN = {"type": "boolean"}


def compiled(kind: Any, text: str, vocabulary: Vocabulary = BYTES):
    backend = Outlines(vocabulary)
    return backend.load(backend.compile(GrammarSpec(kind, text)))


def accepts(schema: Any, text: str) -> bool:
    return re.fullmatch(schema_regex(json.dumps(schema)), text) is not None


def test_all_members_that_may_be_there_come_in_their_order():
    schema = {"properties": dict.fromkeys("abcd", BOOLEAN), "type": "object"}
    for required in ((), ("c",), ("a", "d")):
        for bits in range(16):
            names = [name for i, name in enumerate("abcd") if bits >> i & 1]
            text = json.dumps(dict.fromkeys(names, True))
            assert accepts({**schema, "required": required}, text) == (set(required) <= {*names})
    assert not accepts(schema, '{"b": true, "a": true}')


@pytest.mark.parametrize(
    ("name", "is_other"),
    [
        ("a", True),
        ("ab", False),
        ("abc", True),
        ("b", False),
        ("", True),
        ("x", True),
        ("é", False),
    ],
)
def test_other_names_are_none_of_the_properties(name, is_other):
    properties = {each: {"type": "null"} for each in ("ab", "b", 'q"q', "é")}
    schema = {"properties": properties, "additionalProperties": BOOLEAN}
    assert accepts(schema, json.dumps({name: True}, ensure_ascii=False)) == is_other
    assert accepts({"properties": {}, "additionalProperties": BOOLEAN}, f'{{"{name}": true}}')


def test_counts_of_items():
    for prefix in (0, 1, 2):
        for least in range(4):
            for most in range(least, 5):
                schema = {"type": "array", "items": {"type": "null"}}
                schema |= {"minItems": least, "maxItems": most}
                if prefix:
                    schema["prefixItems"] = [BOOLEAN] * prefix
                for count in range(6):
                    items = ([True] * prefix + [None] * 5)[:count]
                    assert accepts(schema, json.dumps(items)) == (least <= count <= most)


def test_strings_may_have_escapes_but_no_surrogates():
    for text in ('""', '"é😀"', '"\\n\\"\\\\\\u00e9\\uFFFF"', '"\\udfff"', '"\n"', '"\\x"', '"'):
        try:
            expected = json.loads(text).encode() is not None
        except ValueError:
            expected = False
        assert accepts({"type": "string"}, text) == expected, text


def test_where_nothing_is_said_lists_and_objects_hold_simple_values():
    assert accepts({}, '[1, "b", null, -2.5e+3, true]')
    assert accepts({}, '{"a": "b"}')
    assert not accepts({}, "[[1]]")
    assert accepts({"type": "object"}, '{"a": {"b": 1}, "c": [1, 2]}')


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "back to itself"),
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"type": "integer", "exclusiveMinimum": 3, "maximum": 3}, "allow nothing"),
        ({"type": "number", "minimum": 2.5, "maximum": 2.4}, "no number"),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, "minProperties"),
        ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, "maxProperties"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "leave no list"),
        ({"type": "array", "prefixItems": [{}], "items": False, "minItems": 2}, "leave no list"),
        ({"type": "object", "minProperties": 1, "maxProperties": 0}, "leave no object"),
    ],
)
def test_what_no_regular_expression_says_is_refused_by_name(schema, reason):
    with pytest.raises(GrammarError, match=reason):
        schema_regex(json.dumps(schema))


def test_grammars_are_refused_by_name():
    with pytest.raises(GrammarError, match="no ebnf; xgrammar and llguidance do"):
        compiled("ebnf", 'root ::= "a"')


def test_masks_of_few_and_of_many_tokens():
    """Twice 40 tokens with the same text, in a vocabulary whose mask has 23 words."""
    letters = [bytes([i]) for i in range(0x61, 0x67)]
    vocabulary = Vocabulary([b"", *(b"z" for _ in range(700)), *letters, b"ab", b"ab"])
    grammar = compiled("regex", "[a-d]z|ab?", vocabulary)
    constraint = Constraint(grammar, vocabulary, [0])
    assert allowed(constraint, len(vocabulary.tokens)) == [701, 702, 703, 704, 707, 708]
    constraint.accept(0, 701)
    assert allowed(constraint, len(vocabulary.tokens)) == [0, *range(1, 701), 702]
    constraint.accept(1, 350)
    assert constraint.finish is not None
    assert constraint.finish.kind == "stop"


def test_a_token_that_may_not_come_is_not_accepted():
    matcher = compiled("regex", "[bd]").matcher()
    for letter in b"ace":
        assert not matcher.accept(letter + 1)
    assert matcher.accept(b"d"[0] + 1)
    assert not matcher.accept(b"d"[0] + 1)
