"""Each of the collection's grammars compiles or is refused by name, and what comes out is valid."""

from __future__ import annotations

import random

import pytest

from worker.grammar.base import GrammarError
from worker.grammar.registry import grammar_backend

from .collection.check import CASES, Case
from .collection.refusals import ALL, BY_BACKEND, ENDLESS, refusal
from .walk import BYTES, random_text


@pytest.fixture(scope="module", params=BY_BACKEND)
def backend(request):
    return grammar_backend(request.param, BYTES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_out_is_valid(request, backend, case: Case):
    reason = refusal(request.node.callspec.params["backend"], case.name)
    if reason is not None:
        with pytest.raises(GrammarError) as caught:
            backend.compile(case.spec)
        assert reason in str(caught.value)
        return
    grammar = backend.load(backend.compile(case.spec))
    if case.name in ENDLESS:
        return
    rng = random.Random(case.name)
    texts = [text for _ in range(15) if (text := random_text(grammar, rng)) is not None]
    assert texts
    for text in texts:
        case.check(text.decode())


def test_the_collection_is_what_it_says():
    kinds = [case.spec.kind for case in CASES]
    assert kinds.count("json_schema") >= 200
    assert kinds.count("regex") >= 50
    assert kinds.count("ebnf") >= 20
    names = {case.name for case in CASES}
    assert len(names) == len(CASES)
    refused = {name for own in BY_BACKEND.values() for name in own}
    assert names >= {*ALL, *ENDLESS, *refused}
