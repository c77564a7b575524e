"""One request's answer and the grammar that it is held to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..messages import FinishReason
from . import slow_work
from .base import CompiledGrammar, Vocabulary
from .jump_forward import JumpForward
from .mask_filler import MaskFiller

SLOW_TO_FOLLOW = "it takes too long to say which tokens may come next; a simpler one will do."
DEAD_END = "The grammar leads to where no token of this model may follow."
# So many wrong tokens may be drawn in one place.
_MOST_REFUSED = 64
_ONE_THREAD = MaskFiller(1)


class Constraint:
    """Says which token may come next, and is told each token once it is known.

    What may come is looked at when it is asked for; `look_ahead` does that for many at once.
    """

    def __init__(
        self,
        grammar: CompiledGrammar,
        vocabulary: Vocabulary,
        stop_token_ids: Iterable[int],
        jump_forward: JumpForward | None = None,
    ) -> None:
        self._matcher = grammar.matcher()
        self._vocabulary = vocabulary
        self._jump_forward = jump_forward
        self._accepted = 0
        self._refused: set[int] = set()  # in place of the next token
        self._mask: np.ndarray | None = None  # None where it was not looked at yet
        self._finish: FinishReason | None = None
        # What tokens, jumps and masks that took long have taken: CPU time, as a busy machine is no
        # grammar's fault.
        self.slow_seconds = 0.0
        self._stops = frozenset(token for token in stop_token_ids if token < len(vocabulary.tokens))
        words: dict[int, int] = {}
        for token in self._stops:
            words[token // 32] = words.get(token // 32, 0) | 1 << token % 32
        self._stop_words = np.array(list(words), dtype=np.int64)
        self._stop_bits = np.array(list(words.values()), dtype=np.uint32)

    @property
    def mask(self) -> np.ndarray:
        """[mask_words] int32 with a bit for each token that may come next, see `GrammarMatcher`.

        Stop tokens may come where the text may end, and only there, also if they have a text.
        """
        if self._mask is None:
            look_ahead([self])
        assert self._mask is not None
        return self._mask

    @property
    def finish(self) -> FinishReason | None:
        """Set where nothing else may come, and where nothing at all may: the grammar's fault."""
        if self._mask is None:
            look_ahead([self])
        return self._finish

    def accept(self, place: int, token: int) -> bool:
        """Go on with the answer's token at `place`, unless that was done before.

        False if the grammar does not allow it, though the backend's mask did: another one must be
        drawn in its place, from a mask without it.
        """
        if place < self._accepted:
            return True
        assert place == self._accepted, "tokens are accepted in their order"
        if token in self._refused:
            return False
        if token not in self._stops:
            slow_work.begin()
            accepted = self._matcher.accept(token)
            self.slow_seconds += slow_work.slow_seconds()
            if accepted:
                self._mask = None
            elif self._refuse(token):
                return False
            else:
                self._fail(f"Token {token} came, which the grammar does not allow here.")
        self._accepted += 1
        self._refused.clear()
        return True

    def _refuse(self, token: int) -> bool:
        """Whether another token may be drawn in place of this one."""
        mask = self.mask.copy()
        mask.view(np.uint32)[token // 32] &= ~np.uint32(1 << token % 32)
        if self._matcher.failure or len(self._refused) == _MOST_REFUSED or not mask.any():
            return False
        self._refused.add(token)
        self._mask = mask
        return True

    def _fail(self, reason: str) -> None:
        """For `reason`, unless the backend has another."""
        self._end(FinishReason.bad_grammar(self._matcher.failure or reason))

    def forced_text(self) -> bytes:
        """What comes next for certain, see `GrammarMatcher`."""
        return self._matcher.forced_text()

    def jump_forward(self, before: Sequence[int], least: int, most: int) -> list[int]:
        """The answer's next tokens, if the grammar forces at least `least` of them; no more than
        `most`. They are accepted, and need not be drawn. `before` are the last tokens of prompt and
        answer so far.
        """
        if self._jump_forward is None or self.finish is not None:
            return []
        slow_work.begin()
        tokens = self._jump_forward.advance(
            self._matcher, before, self._stops, least=least, most=most
        )
        self.slow_seconds += slow_work.slow_seconds()
        if tokens:
            self._accepted += len(tokens)
            self._mask = None
        return tokens

    def _end(self, finish: FinishReason) -> None:
        """What comes now is dropped: anything may, so that there is something to draw."""
        self._finish = finish
        self._mask = np.full(self._vocabulary.mask_words, -1, dtype=np.int32)


def look_ahead(
    constraints: Sequence[Constraint], filler: MaskFiller = _ONE_THREAD
) -> list[Constraint]:
    """Find out together what may come next in those of `constraints` that have gone on.

    Returns those which something took long for, now or before.
    """
    changed = [constraint for constraint in constraints if constraint._mask is None]
    if not changed:
        return []
    words = changed[0]._vocabulary.mask_words
    return write_masks(changed, np.empty((len(changed), words), dtype=np.int32), filler)


def write_masks(
    constraints: Sequence[Constraint], masks: np.ndarray, filler: MaskFiller = _ONE_THREAD
) -> list[Constraint]:
    """Write what may come next in each of `constraints`, which are of one vocabulary.

    Returns those which something took long for, now or before.

    masks: [constraints, mask_words] int32; constraints that have gone on keep their rows of it
    """
    rows: list[int] = []
    for row, constraint in enumerate(constraints):
        if constraint._mask is None:
            rows.append(row)
            constraint._mask = masks[row]
        else:
            masks[row] = constraint._mask
    if not rows:
        return []
    changed = [constraints[row] for row in rows]
    matchers = [constraint._matcher for constraint in changed]
    for i, seconds in filler.fill(matchers, [masks[row] for row in rows]):
        changed[i].slow_seconds += seconds

    bits = masks.view(np.uint32)
    bits[rows, -1] &= changed[0]._vocabulary.last_word
    stops_of_rows = [len(constraint._stop_words) for constraint in changed]
    stop_words = np.concatenate([constraint._stop_words for constraint in changed])
    stop_bits = np.concatenate([constraint._stop_bits for constraint in changed])
    places = np.repeat(rows, stops_of_rows), stop_words
    bits[places] &= ~stop_bits
    may_end = [matcher.is_complete for matcher in matchers]
    may_go_on = np.bitwise_or.reduce(masks, axis=1)[rows]
    bits[places] |= np.where(np.repeat(may_end, stops_of_rows), stop_bits, 0)
    for i in np.flatnonzero(may_go_on == 0).tolist():
        if may_end[i]:
            changed[i]._end(FinishReason("stop"))
        else:
            changed[i]._fail(DEAD_END)
        masks[rows[i]] = -1
    return [each for each in changed if each.slow_seconds]
