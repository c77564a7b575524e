"""What may come next: text as the grammar says, stop tokens where the text may end."""

from __future__ import annotations

import random

import numpy as np
import pytest

from worker.grammar.base import GrammarError
from worker.grammar.constraint import Constraint, look_ahead, write_masks
from worker.grammar.mask_filler import MaskFiller
from worker.grammar.registry import grammar_backend
from worker.messages import FinishReason, GrammarSpec

from .walk import BYTES, STOP, allowed


@pytest.fixture(scope="module", params=["xgrammar", "llguidance", "outlines"])
def backend(request):
    return grammar_backend(request.param, BYTES)


def constrain(backend, regex: str, stops=(STOP,)) -> Constraint:
    grammar = backend.load(backend.compile(GrammarSpec("regex", regex)))
    return Constraint(grammar, BYTES, stops)


def token(text: str) -> int:
    return BYTES.tokens.index(text.encode())


def choices(constraint: Constraint) -> set[int]:
    return set(allowed(constraint, len(BYTES.tokens)))


def test_a_stop_token_may_come_where_the_text_may_end(backend):
    constraint = constrain(backend, "ab*")
    assert choices(constraint) == {token("a")}
    constraint.accept(0, token("a"))
    assert choices(constraint) == {token("b"), STOP}
    constraint.accept(1, STOP)
    assert constraint.finish is None  # whoever has the stop token says that


def test_a_stop_token_with_a_text_only_stops(backend):
    constraint = constrain(backend, "[ab]{2,3}", stops=[token("b"), 10_000])
    assert choices(constraint) == {token("a")}
    constraint.accept(0, token("a"))
    constraint.accept(1, token("a"))
    assert choices(constraint) == {token("a"), token("b")}


def test_longer_tokens_are_allowed_where_all_their_bytes_are(backend):
    constraint = constrain(backend, "(true|t.x|é)")
    assert choices(constraint) == {token("true"), token("t"), token("é"), 1 + 0xC3}


@pytest.mark.parametrize("stops", [(), (STOP,)])
def test_it_ends_where_only_a_stop_token_may_come(backend, stops):
    constraint = constrain(backend, "ab?", stops)
    constraint.accept(0, token("a"))
    assert constraint.finish is None
    constraint.accept(1, token("b"))
    assert constraint.finish == FinishReason("stop")


def test_a_token_is_accepted_once(backend):
    constraint = constrain(backend, "ab")
    constraint.accept(0, token("a"))
    constraint.accept(0, token("a"))
    assert choices(constraint) == {token("b")}
    with pytest.raises(AssertionError, match="order"):
        constraint.accept(2, token("b"))


def test_another_token_is_drawn_where_one_is_not_allowed(backend):
    constraint = constrain(backend, "[ab]b")
    for _ in range(2):  # it is told twice
        assert not constraint.accept(0, token("c"))
    assert choices(constraint) == {token("a"), token("b")}
    assert constraint.accept(0, token("a"))
    assert choices(constraint) == {token("b")}
    assert constraint.finish is None


def test_many_tokens_that_are_not_allowed_end_the_answer_as_a_failure(backend):
    constraint = constrain(backend, "ab")
    wrong = [each for each in range(len(BYTES.tokens)) if each not in (STOP, token("a"))]
    stands = [constraint.accept(0, each) for each in wrong[:65]]
    assert stands == [False] * 64 + [True]
    assert constraint.finish is not None
    assert constraint.finish.is_failure
    assert constraint.mask.all()  # there must be something to draw


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance"], indirect=True)
def test_a_dead_end_is_the_grammars_fault(backend):
    grammar = backend.load(backend.compile(GrammarSpec("ebnf", 'root ::= "a" root')))
    assert Constraint(grammar, BYTES, ()).finish is None
    grammar = backend.load(backend.compile(GrammarSpec("ebnf", 'root ::= root "a"')))
    finish = Constraint(grammar, BYTES, (STOP,)).finish
    assert finish is not None
    assert finish.status == 400


def test_masks_written_together_are_those_of_each_alone(backend):
    regexes = ["[ab]{1,9}", "ab", "a*", '(true|"[^"]*")+', "(é|x)b*"]
    stops = [(), (STOP,), (STOP, token("b"), token("a"), token("é"))]
    cases = [(regex, tokens) for regex in regexes for tokens in stops]
    together = [constrain(backend, *case) for case in cases]
    alone = [constrain(backend, *case) for case in cases]
    texts: list[list[int]] = [[] for _ in cases]
    rng, filler = random.Random(0), MaskFiller(2)
    for _ in range(20):
        masks = np.full((len(cases), BYTES.mask_words), 7, dtype=np.int32)
        if rng.random() < 0.3:
            look_ahead(together, filler)
        write_masks(together, masks, filler)
        for row, one, other, text in zip(masks, alone, together, texts, strict=True):
            assert one.finish == other.finish
            assert row.tolist() == one.mask.tolist() == other.mask.tolist()
            if one.finish is not None or STOP in text or rng.random() < 0.2:
                continue  # it stays where it is
            text.append(rng.choice(allowed(one, len(BYTES.tokens))))
            one.accept(len(text) - 1, text[-1])
            other.accept(len(text) - 1, text[-1])
    assert sum(one.finish is not None for one in alone) > len(regexes)


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance"], indirect=True)
@pytest.mark.parametrize(
    ("ebnf", "reason"),
    [("root ::= (", "(?i)expect"), ('r ::= "a"', "root"), ("root ::= x", "(\"x\"|'x') (is )?not")],
)
def test_ebnf_that_does_not_compile_says_why(backend, ebnf, reason):
    with pytest.raises(GrammarError, match=reason) as caught:
        backend.compile(GrammarSpec("ebnf", ebnf))
    assert "/" not in str(caught.value)  # no place in somebody's source
