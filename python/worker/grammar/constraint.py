"""One request's answer and the grammar that it is held to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..messages import FinishReason
from .base import CompiledGrammar, Vocabulary

_DEAD_END = "The grammar leads to where no token of this model may follow."


class Constraint:
    """Says which token may come next, and is told each token once it is known.

    `mask` [mask_words] int32 has a bit for each token, see `GrammarMatcher`. Stop tokens may come
    where the text may end, and only there, also if they have a text. `finish` is set where nothing
    else may come, and where nothing at all may: then the grammar is at fault.
    """

    def __init__(
        self, grammar: CompiledGrammar, vocabulary: Vocabulary, stop_token_ids: Iterable[int]
    ) -> None:
        self.mask = np.empty(vocabulary.mask_words, dtype=np.int32)
        self.finish: FinishReason | None = None
        self._matcher = grammar.matcher()
        self._accepted = 0
        vocab_size = len(vocabulary.tokens)
        self._bits = self.mask.view(np.uint32)
        self._last_word = np.uint32((1 << (vocab_size - 1) % 32 + 1) - 1)
        stops = np.array([token for token in stop_token_ids if token < vocab_size], dtype=np.int64)
        self._stops = frozenset(stops.tolist())
        self._stop_words = stops // 32
        self._stop_bits = (1 << stops % 32).astype(np.uint32)
        self._look_ahead()

    def accept(self, place: int, token: int) -> None:
        """Go on with the answer's token at `place`, unless that was done before."""
        if place < self._accepted:
            return
        assert place == self._accepted, "tokens are accepted in their order"
        self._accepted += 1
        if token in self._stops:
            return
        if self._matcher.accept(token):
            self._look_ahead()
        else:
            self._end(_failed(f"Token {token} came, which the grammar does not allow here."))

    def _look_ahead(self) -> None:
        self._matcher.fill_mask(self.mask)
        self._bits[-1] &= self._last_word
        np.bitwise_and.at(self._bits, self._stop_words, ~self._stop_bits)
        may_end, may_go_on = self._matcher.is_complete, self.mask.any()
        if may_end:
            np.bitwise_or.at(self._bits, self._stop_words, self._stop_bits)
        if not may_go_on:
            self._end(FinishReason("stop") if may_end else _failed(_DEAD_END))

    def _end(self, finish: FinishReason) -> None:
        """What comes now is dropped: anything may, so that there is something to draw."""
        self.finish = finish
        self.mask.fill(-1)


def _failed(message: str) -> FinishReason:
    return FinishReason("abort", message=message, status=400)
