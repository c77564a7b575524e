"""Whether an answer is what its grammar allows, by validators that are not ours."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jsonschema
import jsonschema_rs

from worker.messages import GrammarSpec

from .grammars import GRAMMARS
from .regexes import REGEXES
from .schemas import SCHEMAS

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


class Case(NamedTuple):
    """`check` raises if a finished answer is not what the grammar allows."""

    name: str
    spec: GrammarSpec
    check: Callable[[str], None]


def _cases() -> Iterator[Case]:
    for name, schema in SCHEMAS.items():
        spec = GrammarSpec("json_schema", json.dumps(schema))
        yield Case(name, spec, partial(_check_json, schema))
    for name, regex in REGEXES.items():
        yield Case(f"regex: {name}", GrammarSpec("regex", regex), partial(_check_match, regex))
    for name, (text, check) in GRAMMARS.items():
        yield Case(f"ebnf: {name}", GrammarSpec("ebnf", text), partial(_check_parsed, check))


def _check_match(regex: str, text: str) -> None:
    assert re.fullmatch(regex, text), text


def _check_parsed(check: Callable[[str], object], text: str) -> None:
    assert check(text) not in (False, None), text


def _check_json(schema: Any, text: str) -> None:
    value = json.loads(text, parse_float=_finite)
    json.dumps(value, ensure_ascii=False).encode()  # no halves of characters
    first = json.loads(
        text, parse_float=_finite, object_pairs_hook=lambda pairs: dict(reversed(pairs))
    )
    reference = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    of_formats = jsonschema_rs.validator_for(schema, validate_formats=True)  # knows them all
    for each in (value, first):  # of a key that comes twice
        reference(schema).validate(each)
        of_formats.validate(each)
    outside = _STRING.sub('""', text)
    assert re.fullmatch(r"(?:[,:] (?=\S)|[^\s,:])*", outside), f"spaces in {outside}"
    if isinstance(value, dict) and isinstance(schema, dict):
        listed = [name for name in schema.get("properties", ()) if name in value]
        assert [name for name in value if name in listed] == listed, "order"


def _finite(text: str) -> float:
    """JSON has larger numbers than floats."""
    return max(-sys.float_info.max, min(float(text), sys.float_info.max))


CASES = tuple(_cases())
