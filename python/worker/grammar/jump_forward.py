"""Text that a grammar leaves no choice about, in the tokens that the model's tokenizer would write.

A text can be cut into tokens in many ways, and a model knows the usual one. At both seams of a
forced text tokens are chosen so that the answer looks as if its model had been asked for each.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

import numpy as np

from .base import LONGEST_FORCED, GrammarMatcher, Vocabulary

# So many tokens before a forced text are written anew with it: a tokenizer looks back no further
# than to the beginning of a word.
CONTEXT_TOKENS = 4

# Before this, tokenizers of SentencePiece's kind put the space that is no part of a text.
_ANCHOR = "\n"


class JumpForward:
    """For one vocabulary; `encode` gives the tokens of a text, without special ones around it."""

    def __init__(self, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> None:
        self._tokens = vocabulary.tokens
        self._encode = encode
        self._lengths = np.zeros((vocabulary.mask_words, 32), dtype=np.int32)  # as in a mask
        self._lengths.ravel()[: len(self._tokens)] = [len(token) for token in self._tokens]
        self._mask = np.empty(vocabulary.mask_words, dtype=np.int32)
        self._last_word = vocabulary.last_word

    def advance(
        self,
        matcher: GrammarMatcher,
        before: Sequence[int],
        stops: Collection[int] = (),
        *,
        least: int = 1,
        most: int,
    ) -> list[int]:
        """Have `matcher` go on over what is forced, by at least `least` tokens and at most `most`;
        returns them, or nothing. `before` are the last tokens of the text so far, `stops` never
        come.

        Where a token that the grammar allows would reach beyond the forced text, or is a special
        one, the model is asked for that part.
        """
        forced = matcher.forced_text()[:LONGEST_FORCED]
        if len(forced) < least:
            return []
        tokens = self.written(forced, before)
        if len(tokens) < least:
            return []
        left, count = len(forced), 0
        for token in tokens[:most]:
            if token in stops or self._is_open(matcher, left) or not matcher.accept(token):
                break
            left -= len(self._tokens[token])
            count += 1
        if count < least:
            matcher.rollback(count)
            return []
        return tokens[:count]

    def written(self, forced: bytes, before: Sequence[int] = ()) -> list[int]:
        """The tokens of `forced` up to its last whole character, as they are in the text of
        `before` and it; those of it alone, if `before` would not stay as it is. None of a text that
        begins inside a character, or that the tokenizer does not keep as it is.
        """
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(forced)
        except UnicodeDecodeError as error:
            text = forced[: error.start].decode()
        if not text:
            return []
        context = self._context(before)
        if context:
            tokens = self._encode(context + text)
            start = self._start_of(text, tokens)
            if start and tokens[start - 1] == before[-1]:
                return tokens[start:]
        for anchor in ("", _ANCHOR):
            tokens = self._encode(anchor + text)
            start = self._start_of(text, tokens)
            if start is not None:
                return tokens[start:]
        return []

    def _context(self, before: Sequence[int]) -> str:
        """The longest text of last tokens of `before` that all have one and is whole characters."""
        last = before[-CONTEXT_TOKENS:]
        pieces = [self._bytes(token) for token in last]
        while b"" in pieces:
            pieces = pieces[pieces.index(b"") + 1 :]
        for start in range(len(pieces)):
            try:
                return b"".join(pieces[start:]).decode()
            except UnicodeDecodeError:
                continue
        return ""

    def _bytes(self, token: int) -> bytes:
        """None of a special token, an embedding's, or one that the model does not have."""
        return self._tokens[token] if 0 <= token < len(self._tokens) else b""

    def _start_of(self, text: str, tokens: list[int]) -> int | None:
        """Where in `tokens` those begin that are `text`, at their end; None if there is no seam."""
        wanted = text.encode()
        pieces = [self._bytes(token) for token in tokens]
        for start, length in enumerate(accumulate(map(len, reversed(pieces))), 1):
            if length >= len(wanted):
                place = len(tokens) - start
                return place if b"".join(pieces[place:]) == wanted else None
        return None

    def _is_open(self, matcher: GrammarMatcher, left: int) -> bool:
        """Whether a token may come that is no part of the `left` bytes of forced text."""
        matcher.fill_mask(self._mask)
        self._mask.view(np.uint32)[-1] &= self._last_word
        words = np.flatnonzero(self._mask)  # mostly few
        bits = np.unpackbits(self._mask[words].view(np.uint8), bitorder="little")
        lengths = self._lengths[words].ravel()[bits.view(bool)]
        return bool((lengths > left).any() or not lengths.all())
