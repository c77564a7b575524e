"""JSON schemas of every feature, in groups; some are refused, and then by name."""

from __future__ import annotations

from typing import Any

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
ANY: dict[str, Any] = {}
BOOLEAN = {"type": "boolean"}
INTEGER = {"type": "integer"}
NULL = {"type": "null"}
NUMBER = {"type": "number"}
STRING = {"type": "string"}
SHORT = {"type": "string", "maxLength": 3}


def of_type(kind: str | list[str], /, **keywords: Any) -> dict[str, Any]:
    return {"type": kind, **keywords}


def object_of(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """`required`: names, with spaces between."""
    return {"type": "object", "properties": properties, "required": required.split()}


def strict(**properties: Any) -> dict[str, Any]:
    """As OpenAI's strict mode wants objects: all required, nothing else."""
    return {**object_of(**properties), "required": [*properties], "additionalProperties": False}


def array_of(items: Any, **keywords: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **keywords}


TYPES: dict[str, Any] = {
    "anything": True,
    "empty": {},
    "string": STRING,
    "integer": INTEGER,
    "number": NUMBER,
    "boolean": BOOLEAN,
    "null": NULL,
    "any object": {"type": "object"},
    "any array": {"type": "array"},
    "types": of_type(["string", "integer", "null"], maxLength=2, minimum=5),
    "types of containers": of_type(["array", "object"], items=INTEGER, maxProperties=1),
    "types with null": of_type(["boolean", "null"]),
    "integer among numbers": of_type(["integer", "number", "string"], maxLength=1),
    "no type, of numbers": {"minimum": 3, "maximum": 9},
    "no type, of strings": {"minLength": 1, "maxLength": 2},
    "no type, of objects": {"properties": {"a": {"minimum": 3}}, "required": ["a", "b"]},
    "no type, of two": {"maximum": 3, "maxLength": 2},
    "notes": {
        **INTEGER,
        "title": "T",
        "description": "d",
        "default": 1,
        "examples": [2],
        "deprecated": True,
        "$comment": "c",
        "readOnly": True,
        "writeOnly": False,
        "x-own": {"type": "string"},
    },
    "draft 2020-12": {"$schema": "https://json-schema.org/draft/2020-12/schema", **INTEGER},
    "draft 7": {"$schema": DRAFT_7, **INTEGER},
    "an id": {"$id": "https://example.com/number.json", **INTEGER},
    "nullable": {**STRING, "nullable": True},
}

VALUES: dict[str, Any] = {
    "enum": {"enum": [1, "a", None, {"x": 1}, [1, 2], 'é"']},
    "enum of strings": {"enum": ["red", "green", "blue"]},
    "enum with a common beginning": {"enum": ["a", "ab", "abc", "abcd"]},
    "enum of numbers": {"enum": [0, -1, 0.1, 1e300, 2.5e-7, 1.5]},
    "enum of large integers": {"enum": [2**53 + 1, -(2**62), 12345678901234567890]},
    "enum of floats": {"enum": [0.1, 0.2, 0.30000000000000004]},
    "enum of booleans": {"enum": [True, False, None]},
    "enum of a type": of_type("string", enum=["a", 1]),
    "enum of types": of_type(["integer", "null"], enum=["a", 1, None, 2.5]),
    "enum of escapes": {"enum": ['"', "\\", "\n\t\r\b\f", "/", "\x7f", "\u2028", "\x01", "\0"]},
    "enum of unicode": {"enum": ["é", "e\u0301", "日本語", "😀", "\U0010ffff", "Ω"]},
    "enum of objects": {"enum": [{"b": 1, "a": [1, 2.5, None]}, {}, {"c": {"d": "é"}}]},
    "enum of arrays": {"enum": [[], [[]], [1, "a", True], [{"a": 0}]]},
    "enum of an empty text": {"enum": ["", " ", "  "]},
    "enum of syntax": {"enum": ["[a-z]", "::=", "a|b", "(", "^$", "{1,2}", "root", "%", "#"]},
    "const": {"const": {"a": [1, "b"]}},
    "const of a string": {"const": 'it\'s "quoted" \\ and ☃'},
    "const of a number": {"const": 3.14},
    "const of null": {"const": None},
    "const of false": {"const": False},
    "const zero": {"const": 0},
    "const in the enum": {"enum": [1, 2, True], "const": 1},
    "constants of an object": strict(version={"const": 2}, kind={"const": "é"}, on={"const": True}),
    "enum of a hundred": {"enum": [f"value {i}" for i in range(100)]},
}

OBJECTS: dict[str, Any] = {
    "object": object_of("b", a=INTEGER, b=BOOLEAN),
    "optional": object_of("", a=INTEGER, b=BOOLEAN, c=NULL),
    "required first": object_of("a", a=INTEGER, b=BOOLEAN, c=NULL),
    "required in the middle": object_of("b", a=BOOLEAN, b=NULL, c=BOOLEAN),
    "required last": object_of("c", a=BOOLEAN, b=NULL, c=BOOLEAN),
    "required in another order": object_of("c a", a=BOOLEAN, b=NULL, c=BOOLEAN),
    "required and unnamed": {"type": "object", "required": ["x", "y"], "properties": {"y": NULL}},
    "one property": object_of("a", a=NULL),
    "no properties": of_type("object", properties={}, additionalProperties=False),
    "closed": of_type("object", properties={"a": INTEGER}, additionalProperties=False),
    "strict": strict(a=INTEGER, b=STRING, c=array_of(BOOLEAN)),
    "open": of_type("object", properties={"a": INTEGER}, additionalProperties=True),
    "others": object_of("a b", a=INTEGER) | {"additionalProperties": BOOLEAN},
    "others of another type": object_of("name", name=INTEGER) | {"additionalProperties": STRING},
    "others only": of_type("object", additionalProperties=INTEGER),
    "others that are objects": of_type("object", additionalProperties=strict(a=NULL)),
    "others of others": of_type("object", additionalProperties=of_type("object", maxProperties=1)),
    "others beside optional": object_of("", a=INTEGER, ab=BOOLEAN) | {"additionalProperties": NULL},
    "others beside names to escape": {
        **object_of("", **{'"': INTEGER, "a/b": INTEGER, "\n": INTEGER, "é": INTEGER}),
        "additionalProperties": BOOLEAN,
    },
    "nested": strict(a=strict(b=strict(c=strict(d=INTEGER)))),
    "nested optional": object_of("", a=object_of("", b=object_of("", c=INTEGER)), d=NULL),
    "nested arrays": strict(rows=array_of(array_of(BOOLEAN, maxItems=2), maxItems=2)),
    "many properties": strict(**{f"p{i}": BOOLEAN for i in range(12)}),
    "many optional": object_of("", **{f"p{i}": NULL for i in range(8)}),
    "names to escape": object_of('é☃"\\\n', **{'é☃"\\\n': NULL}),
    "names of other scripts": strict(**{"ключ": NULL, "鍵": BOOLEAN, "🔑": INTEGER}),
    "names of keywords": strict(type=STRING, properties=NULL, required=BOOLEAN, enum=INTEGER),
    "names of syntax": strict(**{"[a]": NULL, "a|b": NULL, "$ref": NULL, "": NULL, "a b": NULL}),
    "names that begin alike": object_of("abc", a=NULL, ab=NULL, abc=NULL, abcd=NULL),
    "property that may be anything": object_of("a", a=ANY),
    "property true": object_of("a", a=True),
    "property false": object_of("a", a=NULL, b=False),
    "pattern of names": of_type("object", patternProperties={"^x[0-9]$": BOOLEAN}),
    "pattern of names, not anchored": of_type("object", patternProperties={"x": BOOLEAN}),
    "pattern of names, nothing else": of_type(
        "object", patternProperties={"^[a-c]{1,2}$": INTEGER}, additionalProperties=False
    ),
    "pattern of names beside properties": {
        **object_of("a", a=INTEGER),
        "patternProperties": {"^x-[a-z]$": BOOLEAN},
    },
    "patterns of names": of_type("object", patternProperties={"^a$": NULL, "^b$": BOOLEAN}),
    "pattern of names beside others": of_type(
        "object", patternProperties={"^a": NULL}, additionalProperties=BOOLEAN
    ),
    "pattern of names that matches a property": {
        **object_of("", ab=INTEGER),
        "patternProperties": {"^a": {"minimum": 5}},
    },
    "names": of_type(
        "object", propertyNames={"minLength": 2, "maxLength": 3}, additionalProperties=INTEGER
    ),
    "names of a pattern": of_type("object", propertyNames={"pattern": "^[a-z]{1,3}$"}),
    "names of an enum": of_type("object", propertyNames={"enum": ["a", "b"]}),
    "names beside properties": object_of("a", a=NULL) | {"propertyNames": {"maxLength": 3}},
    "least properties": object_of("", a=BOOLEAN, b=BOOLEAN, c=BOOLEAN) | {"minProperties": 2},
    "most properties": object_of("", a=BOOLEAN, b=BOOLEAN, c=BOOLEAN) | {"maxProperties": 2},
    "open, counted": object_of("a", a=NULL) | {"additionalProperties": NULL, "maxProperties": 2},
    "open, at least": object_of("a", a=NULL) | {"additionalProperties": NULL, "minProperties": 2},
    "count of properties": {
        **object_of("a", a=BOOLEAN, b=BOOLEAN, c=BOOLEAN),
        "minProperties": 2,
        "maxProperties": 2,
    },
    "as many as required": object_of("a b", a=NULL, b=NULL) | {"minProperties": 2},
    "at least one": of_type("object", minProperties=1, additionalProperties=INTEGER),
    "at most two": of_type("object", maxProperties=2, additionalProperties=BOOLEAN),
    "several that are not listed": of_type("object", minProperties=3),
    "dependent required": object_of("", a=NULL, b=NULL) | {"dependentRequired": {"a": ["b"]}},
    "dependent schemas": object_of("", a=NULL) | {"dependentSchemas": {"a": {"minProperties": 2}}},
    "dependencies": object_of("", a=NULL, b=NULL) | {"dependencies": {"a": ["b"]}},
    "unevaluated properties": object_of("a", a=NULL) | {"unevaluatedProperties": False},
}

ARRAYS: dict[str, Any] = {
    "array of integers": array_of(INTEGER),
    "array of strings": array_of(SHORT),
    "array of anything": array_of(ANY, maxItems=2),
    "items": array_of(BOOLEAN, minItems=2, maxItems=3),
    "least items": array_of(NULL, minItems=3),
    "most items": array_of(NULL, maxItems=2),
    "as many items": array_of(NULL, minItems=4, maxItems=4),
    "no items": array_of(NULL, maxItems=0),
    "items false": array_of(False),
    "any items, counted": of_type("array", minItems=1, maxItems=2),
    "array of arrays": array_of(array_of(array_of(INTEGER, maxItems=2), maxItems=2), maxItems=2),
    "array of objects": array_of(strict(a=INTEGER, b=BOOLEAN), maxItems=3),
    "array of choices": array_of({"anyOf": [INTEGER, NULL, SHORT]}, minItems=1),
    "tuple": of_type("array", prefixItems=[BOOLEAN, INTEGER], items=False, minItems=1),
    "tuple with others": of_type("array", prefixItems=[BOOLEAN, INTEGER], items=NULL),
    "tuple of all": of_type("array", prefixItems=[BOOLEAN, SHORT], items=False, minItems=2),
    "tuple with more": of_type(
        "array", prefixItems=[BOOLEAN], items=INTEGER, minItems=2, maxItems=3
    ),
    "tuple, cut": of_type("array", prefixItems=[BOOLEAN, INTEGER, NULL], maxItems=2),
    "tuple, fewer than most": of_type("array", prefixItems=[NULL], items=False, maxItems=3),
    "tuple, cut to nothing": of_type("array", prefixItems=[NULL], maxItems=0),
    "tuple of tuples": of_type(
        *("array",), prefixItems=[array_of(NULL, maxItems=1), ANY], items=False, minItems=2
    ),
    "tuple of draft 7": {
        "$schema": DRAFT_7,
        **of_type("array", items=[BOOLEAN, INTEGER], additionalItems=False),
    },
    "tuple of draft 7 with others": {
        "$schema": DRAFT_7,
        **of_type("array", items=[BOOLEAN], additionalItems=NULL),
    },
    "unique": array_of(INTEGER, uniqueItems=True),
    "not unique": array_of(INTEGER, uniqueItems=False),
    "contains": of_type("array", contains=INTEGER),
    "contains, counted": of_type("array", contains=INTEGER, minContains=2, maxContains=3),
    "unevaluated items": of_type("array", prefixItems=[NULL], unevaluatedItems=False),
    "matrix": array_of(array_of(NUMBER, minItems=2, maxItems=2), minItems=2, maxItems=2),
}

NUMBERS: dict[str, Any] = {
    "range": of_type("integer", minimum=-3, exclusiveMaximum=12),
    "least": of_type("integer", minimum=17),
    "least below zero": of_type("integer", minimum=-105),
    "most": of_type("integer", maximum=250),
    "most below zero": of_type("integer", maximum=-8),
    "more than zero": of_type("integer", exclusiveMinimum=0),
    "less than zero": of_type("integer", exclusiveMaximum=0),
    "one integer": of_type("integer", minimum=7, maximum=7),
    "negative range": of_type("integer", minimum=-1234, maximum=-987),
    "wide range": of_type("integer", minimum=-(10**9), maximum=10**12),
    "large integers": of_type("integer", minimum=2**53, maximum=2**53 + 9),
    "integers between fractions": of_type("integer", minimum=0.5, maximum=3.5),
    "integers as floats": of_type("integer", minimum=1.0, maximum=20.0),
    "both bounds": of_type("integer", minimum=3, exclusiveMinimum=5, maximum=9),
    "no integer": of_type("integer", minimum=3, maximum=2),
    "real range": of_type("number", minimum=1.5, maximum=2.5),
    "real least": of_type("number", minimum=0.001),
    "real most": of_type("number", maximum=-1.25),
    "more than zero, real": of_type("number", exclusiveMinimum=0),
    "probability": of_type("number", minimum=0, maximum=1),
    "open interval": of_type("number", exclusiveMinimum=0, exclusiveMaximum=1),
    "across zero": of_type("number", minimum=-0.5, exclusiveMaximum=0.25),
    "latitude": of_type("number", minimum=-90, maximum=90),
    "wide reals": of_type("number", minimum=-1e6, maximum=1e15),
    "small reals": of_type("number", minimum=1e-3, maximum=2e-3),
    "multiples": of_type("integer", multipleOf=7),
    "multiples in a range": of_type("integer", multipleOf=7, minimum=10, maximum=99),
    "multiples of one": of_type("integer", multipleOf=1, minimum=3),
    "multiples of ten": of_type("integer", multipleOf=10, minimum=0),
    "multiples of a hundred": of_type("integer", multipleOf=100),
    "real multiples": of_type("number", multipleOf=0.5),
    "cents": of_type("number", multipleOf=0.01),
    "multiples as floats": of_type("integer", multipleOf=2.0),
    "bounds of draft 4": of_type("integer", minimum=0, exclusiveMinimum=True),
    "a 32-bit integer": of_type("integer", format="int32", minimum=-(2**31), maximum=2**31 - 1),
}

FORMATS = {
    f"format {name}": of_type("string", format=name)
    for name in (
        *("date", "time", "date-time", "duration", "email", "idn-email", "hostname"),
        *("idn-hostname", "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference"),
        *("uri-template", "uuid", "json-pointer", "relative-json-pointer", "regex", "bogus"),
    )
}

STRINGS: dict[str, Any] = {
    "length": of_type("string", minLength=2, maxLength=4),
    "least length": of_type("string", minLength=3),
    "most length": SHORT,
    "no characters": of_type("string", maxLength=0),
    "one character": of_type("string", minLength=1, maxLength=1),
    "length as a float": of_type("string", maxLength=2.0),
    "pattern": of_type("string", pattern='^[^a-f"]{1,4}@\\w\\.(com|org)$'),
    "pattern, not anchored": of_type("string", pattern="ab+"),
    "pattern, anchored at its start": of_type("string", pattern="^ab"),
    "pattern, anchored at its end": of_type("string", pattern="ab$"),
    "pattern of any text": of_type("string", pattern="^.*$"),
    "pattern of choices": of_type("string", pattern="^(yes|no|maybe)$"),
    "pattern of anchored choices": of_type("string", pattern="^a$|^b$"),
    "any character": of_type("string", pattern="^..$"),
    "quotes": of_type("string", pattern='^"\\\\\n\\^[!^]$'),
    "escapes that repeat": of_type("string", pattern='^\n{2}[\\n"]{2,3}x$'),
    "pattern of escapes": of_type("string", pattern=r"^[\\\"/\t]{2}$"),
    "pattern of unicode": of_type("string", pattern="^[à-ü]{2}[一-龥]😀?$"),
    "pattern and length": of_type("string", pattern="^[a-z]*$", minLength=2, maxLength=5),
    "pattern that has its length": of_type("string", pattern="^[ab]{2,3}$", maxLength=3),
    "pattern that has no length": of_type("string", pattern="^a+b$", maxLength=3),
    "no letter": of_type("string", pattern="^\\W\\D\\S$"),
    "phone": of_type("string", pattern=r"^\+?[1-9]\d{1,14}$"),
    "slug": of_type("string", pattern="^[a-z0-9]+(?:-[a-z0-9]+)*$"),
    "colour": of_type("string", pattern="^#(?:[0-9a-fA-F]{3}){1,2}$"),
    "postcode": of_type("string", pattern="^[A-Z]{1,2}[0-9][A-Z0-9]? ?[0-9][A-Z]{2}$"),
    "look-ahead": of_type("string", pattern="^(?=.*[0-9])[a-z0-9]+$"),
    "back-reference": of_type("string", pattern=r"^(a)\1$"),
    "ECMA's classes": of_type("string", pattern=r"^\p{L}+$"),
    "content": of_type("string", contentEncoding="base64", contentMediaType="image/png"),
    "format and length": of_type("string", format="date", minLength=10, maxLength=10),
    "format and pattern": of_type("string", format="date", pattern="^2"),
    "formats of an object": strict(
        day=of_type("string", format="date"), host=of_type("string", format="ipv4")
    ),
    "string in anything": array_of(STRING, minItems=2, maxItems=2),
    **FORMATS,
}

NODE = object_of(
    "value next", value=INTEGER, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
)
EXPRESSION = {
    "anyOf": [
        INTEGER,
        strict(op={"enum": ["+", "*"]}, left={"$ref": "#/$defs/e"}, right={"$ref": "#/$defs/e"}),
    ]
}

REFERENCES: dict[str, Any] = {
    "reference": {"$ref": "#/$defs/a", "$defs": {"a": INTEGER}},
    "definitions of draft 7": {"$ref": "#/definitions/a", "definitions": {"a": BOOLEAN}},
    "reference in a property": object_of("a", a={"$ref": "#/$defs/n"}) | {"$defs": {"n": NULL}},
    "reference used twice": {
        **strict(a={"$ref": "#/$defs/n"}, b={"$ref": "#/$defs/n"}),
        "$defs": {"n": strict(x=INTEGER)},
    },
    "reference of a reference": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": SHORT},
    },
    "reference beside others": {
        "$ref": "#/definitions/n",
        "minimum": 5,
        "definitions": {"n": INTEGER},
    },
    "reference beside notes": {
        "$ref": "#/$defs/n",
        "description": "a number",
        "default": 3,
        "$defs": {"n": INTEGER},
    },
    "reference with escapes": {"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": BOOLEAN}},
    "reference with per cents": {"$ref": "#/$defs/a%20b", "$defs": {"a b": BOOLEAN}},
    "reference into properties": object_of("a b", a=INTEGER, b={"$ref": "#/properties/a"}),
    "reference into a list": strict(
        a={"anyOf": [NULL, SHORT]}, b={"$ref": "#/properties/a/anyOf/1"}
    ),
    "reference with an anchor": {
        "$ref": "#here",
        "$defs": {"n": {"$anchor": "here", **INTEGER}},
    },
    "reference elsewhere": {"$ref": "https://example.com/schema.json"},
    "reference to nothing": {"$ref": "#/$defs/none"},
    "dynamic reference": {"$dynamicRef": "#x", "$dynamicAnchor": "x", **INTEGER},
    "list": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "tree": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": strict(v=INTEGER, of=array_of({"$ref": "#/$defs/tree"}, maxItems=2)),
        },
    },
    "recursion at the root": object_of("", child={"$ref": "#"}, leaf=BOOLEAN),
    "recursion of two": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": object_of("", b={"$ref": "#/$defs/b"}),
            "b": array_of({"$ref": "#/$defs/a"}, maxItems=1),
        },
    },
    "recursion without an end": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "recursion that must go on": strict(next={"$ref": "#"}),
    "expression": {"$ref": "#/$defs/e", "$defs": {"e": EXPRESSION}},
}


def shape(kind: str, size: str) -> dict[str, Any]:
    return object_of("kind size", kind={"const": kind}, size={"type": size})


CHOICES: dict[str, Any] = {
    "anyOf": {"anyOf": [INTEGER, SHORT]},
    "anyOf of one": {"anyOf": [BOOLEAN]},
    "anyOf that overlap": {"anyOf": [INTEGER, NUMBER, of_type("integer", minimum=5)]},
    "anyOf of objects": {
        "anyOf": [strict(a=INTEGER), strict(b=BOOLEAN), strict(a=INTEGER, b=NULL)]
    },
    "anyOf of anyOf": {"anyOf": [{"anyOf": [NULL, BOOLEAN]}, {"anyOf": [INTEGER]}]},
    "anyOf beside a type": of_type("integer", anyOf=[{"minimum": 10}, {"maximum": 3}]),
    "anyOf beside others": {
        **object_of("", a=INTEGER),
        "anyOf": [{"required": ["a"]}, {"properties": {"b": BOOLEAN}, "required": ["b"]}],
    },
    "anyOf with anything": {"anyOf": [INTEGER, {}]},
    "anyOf with false": {"anyOf": [INTEGER, False]},
    "anyOf of nothing": {"anyOf": []},
    "nullable by anyOf": object_of("a", a={"anyOf": [SHORT, NULL], "default": None}),
    "nullable by types": object_of("a", a=of_type(["integer", "null"])),
    "oneOf by type": {"oneOf": [INTEGER, STRING, {"enum": [True]}]},
    "oneOf by property": {"oneOf": [shape("circle", "integer"), shape("square", "boolean")]},
    "oneOf by enum": {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["c"]}, INTEGER]},
    "oneOf by reference": {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": shape("circle", "integer"), "b": shape("square", "null")},
    },
    "oneOf of ranges": {"oneOf": [of_type("integer", maximum=3), of_type("integer", minimum=9)]},
    "oneOf that overlap": {"oneOf": [{"minimum": 0}, {"maximum": 5}]},
    "oneOf of notes": {"oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]},
    "allOf": {"allOf": [object_of("a", a=INTEGER), {"properties": {"b": NULL}, "required": ["b"]}]},
    "allOf of one": {"allOf": [BOOLEAN], "description": "d"},
    "allOf of ranges": {"allOf": [of_type("integer", minimum=5), {"maximum": 7}]},
    "allOf of three ranges": {"allOf": [INTEGER, {"minimum": 5}, {"maximum": 20}, {"minimum": 8}]},
    "allOf with references": {
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": object_of("x", x=INTEGER), "b": object_of("y", y=BOOLEAN)},
    },
    "allOf of enums": {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
    "allOf of multiples": {"allOf": [of_type("integer", multipleOf=2), {"multipleOf": 3}]},
    "allOf with anyOf": {"allOf": [INTEGER, {"anyOf": [{"minimum": 5}, {"maximum": -5}]}]},
    "allOf with two choices": {"allOf": [{"anyOf": [INTEGER, NULL]}, {"anyOf": [NULL, BOOLEAN]}]},
    "allOf of types that overlap": {
        "allOf": [of_type(["integer", "null"]), of_type(["null", "string"])]
    },
    "allOf of notes": {
        "allOf": [{"$ref": "#/$defs/a"}],
        "title": "T",
        "$defs": {"a": {"enum": [1, 2]}},
    },
    "allOf of closed": {"allOf": [strict(a=NULL), strict(b=NULL)]},
    "allOf of numbers and integers": {"allOf": [NUMBER, of_type(["integer", "null"])]},
    "allOf of types that differ": {"allOf": [INTEGER, STRING]},
    "not": {"not": INTEGER},
    "not of a value": of_type("string", **{"not": {"const": "a"}}),
    "if then else": {"if": INTEGER, "then": {"minimum": 5}, "else": STRING},
    "then without if": {"then": {"minimum": 5}, **INTEGER},
    "discriminator": {
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {
            "propertyName": "pet",
            "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"},
        },
        "$defs": {
            "Cat": object_of("pet lives", pet={"const": "cat"}, lives=INTEGER),
            "Dog": object_of("pet", pet={"const": "dog", "default": "dog"}, good=BOOLEAN),
        },
    },
    "false": False,
}

# As pydantic, zod, OpenAPI and the authors of tools write them.
CITY = {
    "title": "City",
    "type": "object",
    "properties": {
        "name": {"title": "Name", "type": "string"},
        "population": {"title": "Population", "type": "integer"},
        "founded": {
            "anyOf": [{"format": "date", "type": "string"}, {"type": "null"}],
            "default": None,
            "title": "Founded",
        },
        "size": {"$ref": "#/$defs/Size"},
        "tags": {"default": [], "items": {"type": "string"}, "title": "Tags", "type": "array"},
    },
    "required": ["name", "population", "size"],
    "$defs": {"Size": {"enum": ["small", "large"], "title": "Size", "type": "string"}},
}

REAL_LIFE: dict[str, Any] = {
    "pydantic: a model": CITY,
    "pydantic: nested models": {
        "$defs": {
            "Address": object_of("street", street=SHORT, zip=of_type("string", pattern=r"^\d{5}$")),
            "Person": object_of(
                "home", home={"$ref": "#/$defs/Address"}, age={"anyOf": [INTEGER, NULL]}
            ),
        },
        "items": {"$ref": "#/$defs/Person"},
        "type": "array",
        "maxItems": 2,
    },
    "pydantic: dict": of_type("object", additionalProperties=INTEGER, title="Counts"),
    "pydantic: dict of models": {
        "$defs": {"P": object_of("x", x=INTEGER)},
        "additionalProperties": {"$ref": "#/$defs/P"},
        "type": "object",
    },
    "pydantic: tuple": of_type(
        *("array",), maxItems=2, minItems=2, prefixItems=[INTEGER, {"type": "string"}]
    ),
    "pydantic: set": array_of(INTEGER, uniqueItems=True),
    "pydantic: literal": {"enum": ["a", "b"], "title": "L", "type": "string"},
    "pydantic: a constrained number": of_type("number", exclusiveMinimum=0, maximum=5, title="X"),
    "pydantic: Decimal": {
        "anyOf": [NUMBER, of_type("string", pattern=r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$")]
    },
    "pydantic: UUID and time": strict(
        id=of_type("string", format="uuid", title="Id"),
        at=of_type("string", format="date-time", title="At"),
    ),
    "pydantic: HttpUrl": of_type("string", format="uri", minLength=1, maxLength=2083),
    "pydantic: timedelta": of_type("string", format="duration"),
    "pydantic: a reference with a default": {
        "$defs": {"Mode": {"enum": ["fast", "slow"], "type": "string"}},
        **object_of("", mode={"$ref": "#/$defs/Mode", "default": "fast"}),
    },
    "pydantic: no extra": CITY | {"additionalProperties": False},
    "OpenAI: weather": strict(
        location={"type": "string", "description": "City and country e.g. Bogotá, Colombia"},
        units={"type": ["string", "null"], "enum": ["celsius", "fahrenheit", None]},
    ),
    "OpenAI: steps": strict(
        steps=array_of(strict(explanation=SHORT, output=SHORT), maxItems=2), final_answer=STRING
    ),
    "OpenAI: email": strict(
        to=of_type("string", description="Recipient"), subject=STRING, body=STRING
    ),
    "OpenAI: user interface": {
        "type": "object",
        "required": ["type", "children"],
        "additionalProperties": False,
        "properties": {
            "type": {"enum": ["div", "button"]},
            "children": array_of({"$ref": "#"}, maxItems=2),
        },
    },
    "OpenAI: moderation": strict(
        is_violating=BOOLEAN,
        category={"type": ["string", "null"], "enum": ["violence", "self_harm", None]},
        explanation_if_violating=of_type(["string", "null"]),
    ),
    "zod: an object": {
        "$schema": DRAFT_7,
        **strict(id=of_type("integer", exclusiveMinimum=0, maximum=9007199254740991), ok=BOOLEAN),
    },
    "OpenAPI: a pet": object_of(
        "id name",
        id=of_type("integer", format="int64"),
        name=of_type("string", example="doggie"),
        status=of_type("string", enum=["available", "sold"], description="status"),
    ),
    "a tool without parameters": of_type("object", properties={}),
    "a search": object_of(
        "query",
        query=STRING,
        limit=of_type("integer", minimum=1, maximum=100, default=10),
        sort={"enum": ["asc", "desc"]},
        filters=object_of("", since=of_type("string", format="date"), flags=array_of(SHORT)),
    ),
    "a page of names": strict(
        items=array_of(strict(name=of_type("string", pattern="^[A-Z][a-z]{1,8}$"), n=INTEGER)),
        next=of_type(["string", "null"], maxLength=4),
    ),
    "entities": strict(
        entities=array_of(
            strict(
                text=SHORT,
                label={"enum": ["PER", "LOC", "ORG"]},
                span=of_type(*("array",), prefixItems=[INTEGER, INTEGER], items=False, minItems=2),
            ),
            maxItems=2,
        )
    ),
    "GeoJSON point": strict(
        type={"const": "Point"},
        coordinates=array_of(of_type("number", minimum=-180, maximum=180), minItems=2, maxItems=2),
    ),
    "a score card": strict(
        score=of_type("integer", minimum=1, maximum=5), reason=of_type("string", maxLength=20)
    ),
}

GROUPS = {
    "types": TYPES,
    "values": VALUES,
    "objects": OBJECTS,
    "arrays": ARRAYS,
    "numbers": NUMBERS,
    "strings": STRINGS,
    "references": REFERENCES,
    "choices": CHOICES,
    "real life": REAL_LIFE,
}
SCHEMAS: dict[str, Any] = {name: each for group in GROUPS.values() for name, each in group.items()}
assert len(SCHEMAS) == sum(map(len, GROUPS.values())), "names are unique"
