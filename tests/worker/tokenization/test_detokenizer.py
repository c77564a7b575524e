"""Incremental detokenization gives the same text as decoding all at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tokenization.detokenizer import IncrementalDetokenizer
from worker.tokenization.token_bytes import TokenBytes
from worker.tokenization.tokenizer import Tokenizer

from .sentencepiece_tokenizer import sentencepiece_tokenizer


def deltas(token_bytes: TokenBytes, ids: list[int], skip_special_tokens: bool = True) -> list[str]:
    detokenizer = IncrementalDetokenizer(token_bytes, skip_special_tokens)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@given(text=st.text())
def test_deltas_of_a_text_join_to_it_without_half_characters(tiny: Tokenizer, text: str) -> None:
    pieces = deltas(tiny.token_bytes, tiny.encode(text))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 299)), skip=st.booleans())
def test_deltas_of_any_tokens_join_to_what_the_library_decodes(
    tiny: Tokenizer, ids: list[int], skip: bool
) -> None:
    expected = tiny.backend.decode(
        [each for each in ids if tiny.backend.id_to_token(each) is not None],
        skip_special_tokens=skip,
    )
    assert "".join(deltas(tiny.token_bytes, ids, skip)) == expected == tiny.decode(ids, skip)


def test_a_character_goes_out_with_its_last_byte(tiny: Tokenizer) -> None:
    ids = tiny.encode("a😀b")
    assert deltas(tiny.token_bytes, ids) == ["a", "", "", "😀", "b", ""]


def test_bytes_that_are_no_text_go_out_as_soon_as_that_is_known(tiny: Tokenizer) -> None:
    first_half = tiny.encode("😀")[:1]
    letter = tiny.encode("a")
    assert deltas(tiny.token_bytes, [*first_half, *letter]) == ["", "\ufffda", ""]
    assert deltas(tiny.token_bytes, first_half) == ["", "\ufffd"]


@given(text=st.text(alphabet=st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
def test_sentencepiece_deltas_join_to_the_text_with_its_first_space(text: str) -> None:
    tokenizer = sentencepiece_tokenizer()
    token_bytes = TokenBytes(tokenizer)
    ids = tokenizer.encode(text).ids
    assert "".join(deltas(token_bytes, ids)) == (f" {text}" if text else "")


def test_sentencepiece_words_after_a_prompt_keep_their_space() -> None:
    tokenizer = sentencepiece_tokenizer()
    ids = [tokenizer.token_to_id("▁the"), tokenizer.token_to_id("<0xC3>")]
    ids += [tokenizer.token_to_id("<0xA9>")]
    assert deltas(TokenBytes(tokenizer), ids) == [" the", "", "é", ""]


@pytest.mark.parametrize("text", ["1 2024 3.14", "naïve 日本語 😀👩‍👩‍👧", "  a\n\n\tb ", "x" * 100])
def test_real_vocabulary(smollm2: Tokenizer, text: str) -> None:
    ids = smollm2.encode(text)
    assert "".join(deltas(smollm2.token_bytes, ids)) == text == smollm2.backend.decode(ids)
