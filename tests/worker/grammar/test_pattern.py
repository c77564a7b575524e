"""Texts that a regular expression allows are matched by it as a whole, also by Python."""

from __future__ import annotations

import random

import pytest

from worker.grammar.base import GrammarError
from worker.grammar.pattern import canonical_pattern
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from .walk import BYTES, random_text


@pytest.fixture(scope="module", params=["xgrammar", "llguidance", "outlines"])
def backend(request):
    return grammar_backend(request.param, BYTES)


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
