"""Texts have the lengths that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.serving.texts import COMMON_WORDS, SAMPLE_WORDS, Texts, texts_of
from tests.worker.tokenization.tiny_tokenizer import write_tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from worker.tokenization.tokenizer import load_tokenizer


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def write_word_tokenizer(folder: Path, words: int) -> Path:
    """A byte-level BPE tokenizer that has `words` words, both with and without a space before."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(bytes_)}
    merges = []
    letters = "abcdefghijklmnopqrst"
    for index in range(words):
        first, second = letters[index // 20], letters[index % 20]
        for left, right in ((first, second), ("Ġ", first), (f"Ġ{first}", second)):
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_lengths_follow_from_two_samples():
    texts = Texts()
    assert [len(sample.split()) for sample in texts.samples(rng())] == list(SAMPLE_WORDS)
    fitted = texts.fitted([round(1.25 * words) + 20 for words in SAMPLE_WORDS])
    assert (fitted.tokens_per_word, fitted.overhead) == (1.25, 20)
    assert len(fitted.prompt(rng(), 1020).split()) == 800
    assert len(fitted.text(rng(), 1000).split()) == 800
    assert len(fitted.prompt(rng(), 3).split()) == 1


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="288"):
        Texts().fitted([32, 32])


def test_words_of_a_tokenizer_are_one_token_each(tmp_path):
    tokenizer = load_tokenizer(write_word_tokenizer(tmp_path / "words", 300))
    texts = texts_of(tokenizer, rng())
    assert len(texts.vocabulary) >= 256
    assert (texts.tokens_per_word, texts.overhead) == (1.0, 0)
    for length in (1, 2, 777):
        assert len(tokenizer.encode(texts.prompt(rng(), length))) == length


def test_a_tokenizer_without_words_takes_the_common_ones(tmp_path):
    tokenizer = load_tokenizer(write_tiny_tokenizer(tmp_path))
    texts = texts_of(tokenizer, rng())
    assert texts.vocabulary == COMMON_WORDS
    assert texts.tokens_per_word > 3
    length = len(tokenizer.encode(texts.prompt(np.random.default_rng(6), 4000)))
    assert length == pytest.approx(4000, rel=0.1)
