"""Reasoning is free up to the end of its tag; what comes after it is as the grammar says."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from worker.grammar.base import CompiledGrammar, Vocabulary
from worker.grammar.constraint import Constraint
from worker.grammar.reasoning import AfterReasoning, ReasoningTokens
from worker.grammar.registry import grammar_backend
from worker.messages import FinishReason, GrammarSpec, Reasoning

from .walk import STOP, allowed

BYTES = [b"", *(bytes([i]) for i in range(256))]
LONGER = [b"<think>", b"</think>", b"</", b"/think>\n", b">{", b">\n\n", b"\n\n", b"x</think>y"]
NO_TEXT = len(BYTES)
VOCABULARY = Vocabulary([*BYTES, b"", *LONGER])
MAY_REASON = Reasoning("<think>", "</think>", is_open=False)
REASONS = Reasoning("<think>", "</think>", is_open=True)


@pytest.fixture(scope="module", params=["xgrammar", "llguidance"])
def backend(request):
    return grammar_backend(request.param, VOCABULARY)


def compiled(backend, regex: str, reasoning: Reasoning) -> CompiledGrammar:
    grammar = backend.load(backend.compile(GrammarSpec("regex", regex)))
    return AfterReasoning(grammar, ReasoningTokens(VOCABULARY, reasoning))


def constrain(backend, regex: str, reasoning: Reasoning, *written: str | bytes) -> Constraint:
    constraint = Constraint(compiled(backend, regex, reasoning), VOCABULARY, [STOP])
    for place, text in enumerate(written):
        assert token(text) in choices(constraint), text
        constraint.accept(place, token(text))
    return constraint


def token(text: str | bytes) -> int:
    return VOCABULARY.tokens.index(text if isinstance(text, bytes) else text.encode())


def choices(constraint: Constraint) -> set[int]:
    return set(allowed(constraint, len(constraint.mask) * 32)) & set(range(len(VOCABULARY.tokens)))


def test_anything_but_the_end_of_the_text_may_come_inside(backend):
    constraint = constrain(backend, "a", REASONS)
    everything = set(range(len(VOCABULARY.tokens)))
    assert choices(constraint) == everything - {STOP, token("x</think>y")}
    constraint.accept(0, NO_TEXT)
    constraint.accept(1, token("a"))
    assert constraint.finish is None
    assert choices(constraint) == everything - {STOP, token("x</think>y")}


def test_the_grammar_holds_behind_the_end_and_one_white_space(backend):
    spaces = {token(text) for text in (" ", "\n", "\t", "\r", "\v", "\f", "\n\n")}
    constraint = constrain(backend, "ab", REASONS, "x", "</think>")
    assert choices(constraint) == {token("a")} | spaces
    constraint.accept(2, token("\n\n"))
    assert choices(constraint) == {token("a")}
    constraint.accept(3, token("a"))
    constraint.accept(4, token("b"))
    assert constraint.finish == FinishReason("stop")


@pytest.mark.parametrize(
    "written",
    [
        [*"</think>"],
        ["</", *"</think>"],
        [*"</thin</think>"],
        ["</", *"think", ">"],
        ["<think>", "</think>"],
    ],
)
def test_the_end_is_found_however_it_is_written(backend, written):
    constraint = constrain(backend, "a", REASONS, *written)
    assert token("a") in choices(constraint)
    assert token("b") not in choices(constraint)


@pytest.mark.parametrize("written", [["<", "/think>\n"], [*"</think", ">\n\n"]])
def test_white_space_may_come_with_the_end(backend, written):
    assert choices(constrain(backend, "a", REASONS, *written)) == {token("a")}


def test_nothing_else_may_come_with_the_end(backend):
    constraint = constrain(backend, "a", REASONS, *"</think")
    assert token(">{") not in choices(constraint)
    constraint = constrain(backend, "a", REASONS, *"</thin")
    assert token(">{") in choices(constraint)


def test_an_answer_may_begin_with_reasoning_or_with_its_text(backend):
    constraint = constrain(backend, "ab", MAY_REASON)
    assert choices(constraint) == {token("a"), token("<"), token("<think>")}
    constraint = constrain(backend, "ab", MAY_REASON, "a")
    assert choices(constraint) == {token("b")}
    constraint = constrain(backend, "ab", MAY_REASON, *"<th")
    assert choices(constraint) == {token("i")}
    constraint = constrain(backend, "ab", MAY_REASON, "<think>", "x", "</think>", "a")
    assert choices(constraint) == {token("b")}


def test_what_looks_like_the_tag_may_be_the_text(backend):
    constraint = constrain(backend, "<th?|<think>b", MAY_REASON, "<", "t")
    assert choices(constraint) == {token("h"), STOP}
    constraint.accept(2, token("h"))
    assert choices(constraint) == {token("i"), STOP}
    constraint = constrain(backend, "<th?|<think>b", MAY_REASON, *"<think>")
    assert STOP not in choices(constraint)
    assert token("z") in choices(constraint)


def test_a_token_that_may_not_come_leaves_all_as_it_was(backend):
    constraint = constrain(backend, "a", REASONS, *"</think")
    assert not constraint.accept(7, token(">{"))
    assert constraint.accept(7, token(">"))
    assert constraint.accept(8, token("a"))
    constraint = constrain(backend, "a", MAY_REASON, "<")
    assert not constraint.accept(1, token("x"))
    assert constraint.accept(1, token("t"))
    assert constraint.finish is None


@pytest.mark.parametrize("reasoning", [REASONS, MAY_REASON])
def test_random_texts_are_reasoning_and_what_the_grammar_says(backend, reasoning):
    rng = random.Random(5)
    grammar = compiled(backend, "[a-c]{2,5}", reasoning)
    form = re.compile(rb"(<think>)?(.*?)</think>\s*([a-c]{2,5})", re.DOTALL)
    likely = [token(text) for text in ("</think>", "</", "/think>\n", ">", "<", *"/think")]
    reasoned = 0
    for _ in range(60):
        constraint = Constraint(grammar, VOCABULARY, [STOP])
        text, place = b"", 0
        while constraint.finish is None:
            possible = sorted(choices(constraint))
            wanted = [each for each in possible if each in likely]
            chosen = rng.choice(wanted if wanted and rng.random() < 0.7 else possible)
            if chosen == STOP:
                break
            constraint.accept(place, chosen)
            text, place = text + VOCABULARY.tokens[chosen], place + 1
        reasoned += b"</think>" in text
        assert form.fullmatch(text) or (
            not reasoning.is_open and re.fullmatch(rb"[a-c]{2,5}", text)
        ), text
    assert reasoned == 60 if reasoning.is_open else reasoned > 10


@pytest.mark.parametrize("reasoning", [REASONS, MAY_REASON])
def test_nothing_is_forced_before_the_text(backend, reasoning):
    matcher = compiled(backend, "abcdef", reasoning).matcher()
    written = ["<think>", "x", "</think>", "a"]
    for text in written:
        assert matcher.forced_text() == b""
        assert matcher.accept(token(text))
    assert matcher.forced_text() == b"bcdef"
    assert matcher.accept(token("b"))
    assert matcher.accept(token("c"))
    matcher.rollback(2)
    assert matcher.forced_text() == b"bcdef"


@pytest.mark.parametrize("is_open", [False, True])
def test_tags_may_be_special_tokens(is_open):
    special = {NO_TEXT: b"<think>", STOP: b"</think>"}
    vocabulary = Vocabulary(VOCABULARY.tokens[: NO_TEXT + 1], special=special)
    backend = grammar_backend("xgrammar", vocabulary)
    grammar = backend.load(backend.compile(GrammarSpec("regex", "ab")))
    tokens = ReasoningTokens(vocabulary, Reasoning("<think>", "</think>", is_open))
    constraint = Constraint(AfterReasoning(grammar, tokens), vocabulary, [])
    for place, each in enumerate([*([] if is_open else [NO_TEXT]), token("x"), STOP, token("a")]):
        assert each in choices(constraint)
        constraint.accept(place, each)
    assert choices(constraint) == {token("b")}


def test_masks_have_a_bit_for_each_token_of_any_vocabulary():
    for size in (31, 32, 33):
        vocabulary = Vocabulary([b"</think>x"] * size)
        tokens = ReasoningTokens(vocabulary, REASONS)
        assert tokens.hides[0].shape == (vocabulary.mask_words,)
        assert np.unpackbits(tokens.hides[0].view(np.uint8)).sum() == size
