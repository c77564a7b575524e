"""Texts that a regular expression allows are matched by it as a whole, also by Python."""

from __future__ import annotations

import random
import re

import pytest

from worker.grammar.base import GrammarError
from worker.grammar.pattern import canonical_pattern
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from .walk import BYTES, random_text

PATTERNS = (
    r"(Paris|London)",
    r"[a-z]{3,6}",
    r"...",
    r"[^a]{2}",
    r"\w\d\s\W\D\S",
    r"[^\w\s]+",
    r"[^\W]x",
    r"\d{4}-\d\d-\d\d",
    r"a*?b+?c??",
    r"^(yes|no)$",
    r"^a$|^b$",
    r"(?:ab|c){2,3}",
    r"(?P<name>x)y",
    r"[\]\-\\^&~]{4}",
    r"\.\*\+\?\(\)\[\]\{\}\|\^\$/\"'`%#@!&~<>=:;,_-",
    r"é+[à-ü]",
    r"[\U0001F600-\U0001F64F]",
    r"\x41\u00e9\n\t",
    r"(|a)b",
    r"",
    r"((a{0,3}){0,3}b){1,2}",
    r"(?:[0-9]+)?x(?:a{2})*y(?:(?:b|c)+){2}",
    r"[0-9]{1,3}(\.[0-9]{1,3}){3}",
)


@pytest.fixture(scope="module", params=["xgrammar", "llguidance", "outlines"])
def backend(request):
    return grammar_backend(request.param, BYTES)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_comes_out_matches(backend, pattern):
    grammar = backend.load(backend.compile(GrammarSpec("regex", pattern)))
    rng = random.Random(pattern)
    texts = [text for _ in range(100) if (text := random_text(grammar, rng)) is not None]
    assert len(texts) > 20
    for text in texts:
        assert re.fullmatch(pattern, text.decode()), text


def test_an_alternative_does_not_hide_longer_ones(backend):
    grammar = backend.load(backend.compile(GrammarSpec("regex", "a|ab|abc|(x|xy)?")))
    rng = random.Random(0)
    texts = {"a", "ab", "abc", "x", "xy", ""}
    assert {random_text(grammar, rng) for _ in range(400)} == {text.encode() for text in texts}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a", "no regular expression"),
        ("[b-a]", "no regular expression"),
        ("(?=a)b", "a look-around"),
        ("(?<!a)b", "a look-around"),
        (r"(a)\1", "a back-reference"),
        ("(a)?(?(1)b|c)", "a condition"),
        ("(?>a)", "an atomic group"),
        ("a++", "a possessive repetition"),
        (r"a\bb", "an anchor or word boundary"),
        ("a^b", "an anchor or word boundary"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        (r"[^\s\S]", "empty"),
    ],
)
def test_what_is_no_part_of_regular_languages_is_refused_by_name(pattern, reason):
    with pytest.raises(GrammarError, match=reason):
        canonical_pattern(pattern)
