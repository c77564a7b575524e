"""Texts of random words whose length in tokens is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from worker.tokenization.tokenizer import Tokenizer

# Nearly every tokenizer has one token for each of these.
COMMON_WORDS = tuple((Path(__file__).parent / "words.txt").read_text().split())
SAMPLE_WORDS = (32, 288)
"""Lengths of the samples by which tokens for a word, and those beside the words, are found."""

_PIECE = re.compile("[Ġ▁][a-z]{2,12}")  # byte-level BPE and SentencePiece mark the space so


@dataclass(frozen=True)
class Texts:
    """Draws words. `overhead` tokens are the server's own: a beginning of text, a template."""

    vocabulary: tuple[str, ...] = COMMON_WORDS
    tokens_per_word: float = 1.0
    overhead: int = 0

    def word_count(self, tokens: int) -> int:
        """How many words come nearest to `tokens`; at least 1."""
        return max(1, round(tokens / self.tokens_per_word))

    def text(self, rng: np.random.Generator, tokens: int) -> str:
        """Words of so many tokens, to stand within a prompt."""
        return self._join(rng, self.word_count(tokens))

    def prompt(self, rng: np.random.Generator, tokens: int) -> str:
        """Words which the server counts as so many tokens, its own included."""
        return self.text(rng, tokens - self.overhead)

    def samples(self, rng: np.random.Generator) -> list[str]:
        """Two texts, for `fitted`."""
        return [self._join(rng, words) for words in SAMPLE_WORDS]

    def fitted(self, counts: Sequence[int]) -> Self:
        """With lengths as they follow from the tokens that were counted in the two samples."""
        words = SAMPLE_WORDS[1] - SAMPLE_WORDS[0]
        per_word = (counts[1] - counts[0]) / words
        if per_word <= 0:
            raise ValueError(f"texts of {SAMPLE_WORDS} words cannot have {tuple(counts)} tokens")
        overhead = max(0, round(counts[0] - SAMPLE_WORDS[0] * per_word))
        return replace(self, tokens_per_word=per_word, overhead=overhead)

    def _join(self, rng: np.random.Generator, words: int) -> str:
        return " ".join(self.vocabulary[i] for i in rng.integers(len(self.vocabulary), size=words))


def texts_of(tokenizer: Tokenizer, rng: np.random.Generator) -> Texts:
    """Texts of words that are one token each; where there are too few, of common words."""
    words = tuple(islice(_single_token_words(tokenizer), 4096))
    texts = Texts(words) if len(words) >= 256 else Texts()
    return texts.fitted([len(tokenizer.encode(sample)) for sample in texts.samples(rng)])


def _single_token_words(tokenizer: Tokenizer) -> Iterator[str]:
    """In the order of their ids: the more common ones come first."""
    vocabulary = tokenizer.backend.get_vocab()
    for piece in sorted(filter(_PIECE.fullmatch, vocabulary), key=vocabulary.__getitem__):
        word = piece[1:]
        if len(tokenizer.encode(f"{word} {word}", add_special_tokens=False)) == 2:
            yield word
