"""What is refused, and with which words: by every backend, and by one of them."""

from __future__ import annotations

from .grammars import GRAMMARS

ALL = {
    "patterns of names": "patternProperties is supported for one pattern alone",
    "pattern of names beside others": "patternProperties is supported for one pattern alone",
    "pattern of names that matches a property": "patternProperties that match",
    "names beside properties": "propertyNames beside properties",
    "several that are not listed": "minProperties is supported where",
    "dependent required": "dependentRequired",
    "dependent schemas": "dependentSchemas",
    "dependencies": "dependencies",
    "unevaluated properties": "unevaluatedProperties",
    "unique": "uniqueItems",
    "contains": "contains",
    "contains, counted": "contains",
    "unevaluated items": "unevaluatedItems",
    "no integer": "bounds of a number allow nothing",
    "multiples of ten": "multipleOf is supported without bounds",
    "real multiples": "multipleOf is supported for integers",
    "cents": "multipleOf is supported for integers",
    "bounds of draft 4": "exclusiveMinimum must be a number",
    "pattern that has no length": "pattern and format go together with a length only",
    "look-ahead": "a look-around",
    "back-reference": "a back-reference",
    "ECMA's classes": r"bad escape \p",
    "format and pattern": "format beside pattern",
    "format uri-template": 'format "uri-template"',
    "format regex": 'format "regex"',
    "format bogus": 'format "bogus"',
    "reference elsewhere": "only references like",
    "reference to nothing": "leads nowhere",
    "dynamic reference": "$dynamicRef",
    "anyOf of nothing": "anyOf allows nothing",
    "oneOf of ranges": "oneOf whose choices may hold together",
    "oneOf that overlap": "oneOf whose choices may hold together",
    "allOf with two choices": "two schemas with anyOf",
    "allOf of closed": "additionalProperties beside properties of another schema",
    "allOf of types that differ": "schemas of different types",
    "not": "not is not supported",
    "not of a value": "not is not supported",
    "if then else": "if is not supported",
    "then without if": "then is not supported",
    "false": "allows nothing",
    "pydantic: set": "uniqueItems",
    "pydantic: Decimal": "a look-around",
}

_RECURSIVE = (
    *("list", "tree", "recursion at the root", "recursion of two", "recursion without an end"),
    *("recursion that must go on", "expression", "OpenAI: user interface"),
)
_MULTIPLES = ("multiples", "multiples of a hundred", "multiples as floats", "allOf of multiples")
_COUNTED = ("least properties", "count of properties", "open, at least")

BY_BACKEND = {
    "xgrammar": {},
    "llguidance": {
        "enum of large integers": "too large",
        "names": "propertyNames",
        "names of a pattern": "propertyNames",
        "least properties": "min/maxProperties",
        "most properties": "min/maxProperties",
    },
    "outlines": {
        **{f"ebnf: {name}": "no ebnf" for name in GRAMMARS},
        **dict.fromkeys(_RECURSIVE, "back to itself"),
        **dict.fromkeys(_MULTIPLES, "multipleOf is no regular expression"),
        **dict.fromkeys(_COUNTED, "minProperties"),
        "most properties": "maxProperties",
        "open, counted": "maxProperties",
    },
}

# What compiles, but no answer comes to an end.
ENDLESS = ("recursion without an end", "recursion that must go on")


def refusal(backend: str, name: str) -> str | None:
    """A part of the reason, if a backend refuses what is called `name`."""
    return ALL.get(name) or BY_BACKEND[backend].get(name)
