"""Forced text, in the tokens that a tokenizer writes, and no further than is certain."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.grammar.base import LONGEST_FORCED, Vocabulary
from worker.grammar.jump_forward import JumpForward
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec
from worker.tokenization.token_bytes import TokenBytes
from worker.tokenization.tokenizer import load_tokenizer

from ..tokenization.sentencepiece_tokenizer import sentencepiece_tokenizer
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer

EOT = 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Bytes, " t", "he", " the", "in", "or", "é" and the first half of most emoji."""
    return load_tokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("tiny")))


def vocabulary_of(backend) -> Vocabulary:
    token_bytes = TokenBytes(backend)
    return Vocabulary([token_bytes.of(i, True) for i in range(backend.get_vocab_size())])


@pytest.fixture(scope="module")
def jump(tokenizer):
    return JumpForward(vocabulary_of(tokenizer.backend), lambda text: tokenizer.encode(text, False))


@pytest.fixture(scope="module", params=["xgrammar", "llguidance", "outlines"])
def matcher(request, tokenizer):
    """Makes matchers of regular expressions."""
    backend = grammar_backend(request.param, vocabulary_of(tokenizer.backend))
    return lambda regex: backend.load(backend.compile(GrammarSpec("regex", regex))).matcher()


def feed(matcher, tokenizer, text: str) -> None:
    for token in tokenizer.encode(text, False):
        assert matcher.accept(token)


# ===== what is forced =====


@pytest.mark.parametrize(
    ("regex", "before", "forced"),
    [
        ("abc", "", b"abc"),
        ("ab(c|d)e", "", b"ab"),
        ("ab(c|d)e", "abd", b"e"),
        ("[ab]c", "", b""),
        ("a(bc)?", "", b"a"),
        ("a(bc)?", "a", b""),
        ("a(bc)?", "ab", b"c"),
        ("abc", "abc", b""),
        ("a(é|è)", "", b"a\xc3"),
        ("日本", "", "日本".encode()),
    ],
)
def test_text_is_forced_up_to_a_choice_or_an_end(matcher, tokenizer, regex, before, forced):
    made = matcher(regex)
    feed(made, tokenizer, before)
    assert made.forced_text() == forced


def test_long_text_is_forced_in_parts(matcher, jump, tokenizer):
    text = "in the " * 400
    made, parts = matcher(text), []
    while made.forced_text():
        parts.append(tokenizer.decode(jump.advance(made, [], most=9999)))
    assert "".join(parts) == text
    assert all(900 < len(part) <= LONGEST_FORCED for part in parts[:-1])


def test_a_matcher_goes_back(matcher, tokenizer):
    made = matcher("ab(cd|ce)")
    feed(made, tokenizer, "abcd")
    assert made.is_complete
    made.rollback(1)
    assert not made.is_complete
    feed(made, tokenizer, "e")
    made.rollback(4)
    assert made.forced_text() == b"abc"


_part = st.one_of(
    st.text("ab te", min_size=1, max_size=5).map(re.escape),
    st.lists(st.text("abthe ", min_size=1, max_size=4), min_size=2, max_size=3).map(
        lambda words: f"({'|'.join(map(re.escape, words))})"
    ),
    st.tuples(st.text("abé", min_size=1, max_size=2), st.sampled_from("?*")).map(
        lambda pair: f"({re.escape(pair[0])}){pair[1]}"
    ),
)
_patterns = st.lists(_part, min_size=1, max_size=4).map("".join)


@settings(max_examples=60, deadline=None)
@given(regex=_patterns, data=st.data())
def test_whatever_is_forced_every_whole_text_begins_with(matcher, jump, tokenizer, regex, data):
    """Forced text and the tokens for it, against a walk that is never forced."""
    vocabulary = vocabulary_of(tokenizer.backend)
    vocab = vocabulary.tokens
    forced, free = matcher(regex), matcher(regex)
    text: list[int] = []

    def allowed(made) -> list[int]:
        mask = np.empty(vocabulary.mask_words, dtype=np.int32)
        made.fill_mask(mask)
        bits = np.unpackbits(mask.view(np.uint8), count=len(vocab), bitorder="little")
        return np.flatnonzero(bits).tolist()

    for _ in range(12):
        tokens = jump.advance(forced, text, most=99)
        for place, token in enumerate(tokens):
            assert not free.is_complete
            rest = b"".join(vocab[each] for each in tokens[place:])
            assert all(rest.startswith(vocab[each][: len(rest)]) for each in allowed(free))
            assert free.accept(token)
        text += tokens
        choices = allowed(free)
        if not choices:
            break
        text.append(data.draw(st.sampled_from(choices)))
        assert free.accept(text[-1])
        assert forced.accept(text[-1])


# ===== the seams =====


def words(tokenizer, tokens: list[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in tokens]


def test_forced_text_is_cut_into_tokens_as_the_tokenizer_does(matcher, jump, tokenizer):
    tokens = jump.advance(matcher("in the door.*"), [], most=99)
    assert words(tokenizer, tokens) == ["in", " the", " ", "d", "o", "or"]


def test_what_a_longer_token_may_cover_is_left_to_the_model(matcher, jump, tokenizer):
    for regex, certain in [("a t[a-z]+", "a"), ("a t[a-f]+", "a t"), ("a th[f-z]+", "a th")]:
        assert tokenizer.decode(jump.advance(matcher(regex), [], most=99)) == certain, regex


def test_a_character_that_may_end_in_several_ways_is_left_to_the_model(matcher, jump, tokenizer):
    tokens = jump.advance(matcher("ab(è|ê)"), [], most=99)
    assert tokenizer.decode(tokens) == "ab"
    inside = matcher("ab(è|êc)d")
    first = tokenizer.encode("ê", False)[:1]
    feed(inside, tokenizer, "ab")
    assert inside.accept(first[0])
    assert jump.advance(inside, first, most=99) == []  # what follows begins inside a character


def test_tokens_before_a_seam_count_if_they_stay_as_they_are(jump, tokenizer):
    space, t, h, e = (tokenizer.encode(each, False)[0] for each in (" ", "t", "h", "e"))
    (the,) = tokenizer.encode(" the", False)
    assert words(tokenizer, jump.written(b" then", [the])) == [" the", "n"]
    # After " " the tokenizer would have written " the": "the" is cut by itself.
    assert words(tokenizer, jump.written(b"the", [space])) == ["t", "he"]
    assert words(tokenizer, jump.written(b"e", [t, h])) == ["e"]
    assert words(tokenizer, jump.written(b"in", [e, EOT])) == ["in"]
    assert words(tokenizer, jump.written(b"in", [-5])) == ["in"]


def test_text_that_looks_like_a_special_token_is_not_forced(matcher, jump):
    assert jump.advance(matcher(r"<\|im_end\|>x"), [], most=99) == []


def test_text_before_a_special_token_is_forced(jump, tokenizer):
    assert words(tokenizer, jump.written(b"in\xff<|im_start|>")) == ["in"]
    assert jump.written(b"\xff<|im_start|>in") == []


def test_stop_tokens_are_not_forced(matcher, jump, tokenizer):
    (b,) = tokenizer.encode("b", False)
    made = matcher("aabc")
    assert words(tokenizer, jump.advance(made, [], {b}, most=99)) == ["a", "a"]
    assert made.forced_text() == b"bc"


def test_with_too_few_tokens_nothing_happens(matcher, jump):
    made = matcher("abc(d|e)")
    assert jump.advance(made, [], least=4, most=99) == []
    assert made.forced_text() == b"abc"
    made = matcher("ab t[a-z]+")  # of which the last part is left to the model
    assert jump.advance(made, [], least=3, most=99) == []
    assert made.forced_text() == b"ab t"
    assert len(jump.advance(made, [], least=2, most=99)) == 2


def test_with_too_many_tokens_some_are_left(matcher, jump, tokenizer):
    made = matcher("abc(d|e)")
    assert tokenizer.decode(jump.advance(made, [], most=2)) == "ab"
    assert made.forced_text() == b"c"
    assert jump.advance(made, [], least=2, most=1) == []


def test_sentencepiece_puts_no_space_before_a_forced_text():
    backend = sentencepiece_tokenizer()
    vocabulary = vocabulary_of(backend)
    jump = JumpForward(vocabulary, lambda text: backend.encode(text, add_special_tokens=False).ids)
    pieces = backend.token_to_id
    assert jump.written(b"the") == [pieces("the")]
    assert jump.written(b" the the") == [pieces("▁the"), pieces("▁the")]
    assert jump.written(b"bc", [pieces("a")]) == [pieces("bc")]
    assert jump.written("aé".encode()) == [pieces("a"), pieces("<0xC3>"), pieces("<0xA9>")]


@settings(max_examples=100, deadline=None)
@given(text=st.text('the inor"é:{}\n', min_size=1, max_size=30), cut=st.integers(0, 30))
def test_a_text_cut_at_a_seam_of_tokens_is_written_as_if_it_were_not(jump, tokenizer, text, cut):
    whole = tokenizer.encode(text, False)
    before, after = whole[:cut], whole[cut:]
    forced = b"".join(jump._bytes(token) for token in after)
    assert jump.written(forced, before) == after or not is_text(forced)


def is_text(data: bytes) -> bool:
    return data != b"" and not 0x80 <= data[0] < 0xC0


def test_all_seams_of_a_json_text(jump, tokenizer):
    text = '{"name": "inner", "door": [1, 2, "the é"]}'
    tokens = tokenizer.encode(text, False)
    for cut in range(len(tokens)):
        forced = b"".join(jump._bytes(token) for token in tokens[cut:])
        if is_text(forced):
            assert tokens[:cut] + jump.written(forced, tokens[:cut]) == tokens
