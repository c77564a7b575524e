"""Reasoning before a text that is held to a grammar: in it anything may come."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..messages import Reasoning
from .base import CompiledGrammar, GrammarMatcher, Vocabulary


class ReasoningTokens:
    """What the tokens of a vocabulary are to the tags of a reasoning, found once for all texts.

    `texts` are those of special tokens, too: tags often are.
    `begins[n]` are those that go on with the start tag where n bytes of it are there, and not past
    it. `hides[n]` are those that go on with n bytes of the end tag, to its end and past it, with
    more than white space: what they say behind it would be held to nothing. `spaces` are white
    space alone.
    """

    def __init__(self, vocabulary: Vocabulary, reasoning: Reasoning) -> None:
        special = vocabulary.special
        self.texts = [text or special.get(i, b"") for i, text in enumerate(vocabulary.tokens)]
        self.start, self.end = reasoning.start.encode(), reasoning.end.encode()
        self.is_open = reasoning.is_open
        texts = [(token, text) for token, text in enumerate(self.texts) if text]
        self.spaces = frozenset(token for token, text in texts if text.isspace())
        parts = [(token, text) for token, text in texts if text in self.start]
        self.begins = [
            _mask(vocabulary, (t for t, text in parts if self.start.startswith(text, at)))
            for at in range(len(self.start))
        ]
        last = self.end[-1:]
        past = [(token, text) for token, text in texts if last in text[:-1]]
        self.hides = [
            _mask(vocabulary, (t for t, text in past if self.rest_of(at, text).strip()))
            for at in range(len(self.end))
        ]
        self.may_be_space = _mask(vocabulary, self.spaces)

    def rest_of(self, found: int, text: bytes) -> bytes:
        """What comes after the end tag, of which `found` bytes were there before `text`."""
        return (self.end[:found] + text).partition(self.end)[2]

    def found_with(self, found: int, text: bytes) -> int:
        """Bytes of the end tag that are there after `text`; all of it, if it is there."""
        written = self.end[:found] + text
        if self.end in written:
            return len(self.end)
        longest = min(len(self.end) - 1, len(written))
        return next(n for n in range(longest, -1, -1) if written.endswith(self.end[:n]))


def _mask(vocabulary: Vocabulary, tokens: Iterable[int]) -> np.ndarray:
    """[mask_words] int32 with the bits of `tokens`."""
    bits = np.zeros(32 * vocabulary.mask_words, dtype=np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


class AfterReasoning(CompiledGrammar):
    """A grammar for what comes after the reasoning.

    The text may begin with reasoning, or with what the grammar says; where the reasoning is open
    from the start it has to end first. It cannot be the end of the text. After its tag there may
    be one token of white space, as models were trained to write.
    """

    def __init__(self, grammar: CompiledGrammar, tokens: ReasoningTokens) -> None:
        self._grammar = grammar
        self._tokens = tokens

    def matcher(self) -> GrammarMatcher:
        return _Matcher(self._grammar, self._tokens)


class _Matcher(GrammarMatcher):
    """`_begun` are bytes of the start tag, `_found` of the end tag; None is for "not there now".

    While the start tag is being written, the grammar follows, too, as long as it can: what looks
    like the tag may be its text.
    """

    def __init__(self, grammar: CompiledGrammar, tokens: ReasoningTokens) -> None:
        self._grammar = grammar
        self._tokens = tokens
        self._begun: int | None = None if tokens.is_open else 0
        self._found: int | None = 0 if tokens.is_open else None
        self._may_be_space = False
        self._text: GrammarMatcher | None = grammar.matcher()

    def accept(self, token: int) -> bool:
        if self._found is not None:
            return self._reason(self._found, token)
        if self._begun is not None:
            return self._begin(self._begun, token)
        assert self._text is not None
        is_space = self._may_be_space and token in self._tokens.spaces
        if not (self._text.accept(token) or is_space):
            return False
        self._may_be_space = False
        return True

    def _begin(self, begun: int, token: int) -> bool:
        piece, tag = self._tokens.texts[token], self._tokens.start
        goes_on = bool(piece) and tag.startswith(piece, begun)
        if self._text is not None and not self._text.accept(token):
            if not goes_on:
                return False
            self._text = None
        elif self._text is None and not goes_on:
            return False
        self._begun = begun + len(piece) if goes_on else None
        if self._begun == len(tag):
            self._begun, self._found = None, 0
            self._text = self._grammar.matcher()
        return True

    def _reason(self, found: int, token: int) -> bool:
        piece = self._tokens.texts[token]
        rest = self._tokens.rest_of(found, piece)
        if rest.strip():
            return False
        now = self._tokens.found_with(found, piece)
        is_over = now == len(self._tokens.end)
        self._found = None if is_over else now
        self._may_be_space = is_over and not rest
        return True

    def fill_mask(self, mask: np.ndarray) -> None:
        if self._found is not None:
            np.invert(self._tokens.hides[self._found], out=mask)
            return
        if self._text is None:
            mask.fill(0)
        else:
            self._text.fill_mask(mask)
        if self._begun is not None:
            mask |= self._tokens.begins[self._begun]
        if self._may_be_space:
            mask |= self._tokens.may_be_space

    @property
    def is_complete(self) -> bool:
        return self._found is None and self._text is not None and self._text.is_complete

    @property
    def failure(self) -> str | None:
        return None if self._text is None else self._text.failure

    def forced_text(self) -> bytes:
        is_text = self._found is None and self._begun is None and not self._may_be_space
        return self._text.forced_text() if is_text and self._text is not None else b""

    def rollback(self, count: int) -> None:
        assert self._text is not None, "a text was forced"
        self._text.rollback(count)
