"""outlines-core: regular expressions as tables, of each state's tokens and where they lead."""

from __future__ import annotations

import itertools
from collections import deque
from functools import cached_property

import msgspec
import numpy as np
import outlines_core

from ..messages import GrammarSpec
from .base import (
    LONGEST_FORCED,
    CompiledGrammar,
    GrammarBackend,
    GrammarError,
    GrammarMatcher,
    Vocabulary,
)
from .json_regex import schema_regex
from .pattern import canonical_pattern

# The library takes the first alternative that ends, unless all have to reach the end of the text;
# then it asks that something comes before that.
_START = b"\0"
_WHOLE = r"\x00(?:{})\z"


class Outlines(GrammarBackend):
    """The library is asked for all that it knows when a grammar is compiled, and not after."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @cached_property
    def _index_vocabulary(self) -> outlines_core.Vocabulary:
        """With the library's stop token behind our own, and `_START` behind that."""
        count = len(self._vocabulary.tokens)
        tokens: dict[bytes, list[int]] = {_START: [count + 1]}
        for token, text in enumerate(self._vocabulary.tokens):
            if text:
                tokens.setdefault(text, []).append(token)
        return outlines_core.Vocabulary(count, tokens)

    def compile(self, spec: GrammarSpec) -> bytes:
        match spec.kind:
            case "json_schema":
                regex = schema_regex(spec.text)
            case "regex":
                regex = canonical_pattern(spec.text)
            case kind:
                raise GrammarError(
                    f"outlines knows regular expressions and JSON schemas, and no {kind}; "
                    "xgrammar and llguidance do"
                )
        try:
            index = outlines_core.Index(_WHOLE.format(regex), self._index_vocabulary)
        except UnicodeEncodeError:
            raise
        except ValueError as error:
            raise GrammarError(str(error).strip().split("\n", 1)[0]) from error
        return msgspec.msgpack.encode(_table(index, self._vocabulary))

    def load(self, compiled: bytes) -> CompiledGrammar:
        return _Compiled(msgspec.msgpack.decode(compiled, type=_Table), self._vocabulary)


class _Table(msgspec.Struct, frozen=True, array_like=True):
    """An automaton whose state 0 is the first, as the bytes of arrays.

    begins: [states + 1] int64, where each state's tokens begin
    tokens: [transitions] int32, in order within a state
    states: [transitions] int32, where they lead
    may_end: [states] bool
    mask_rows: [states] int32, which of `masks` has a state's tokens; -1 where they are too few
    masks: [., mask_words] int32
    """

    begins: bytes
    tokens: bytes
    states: bytes
    may_end: bytes
    mask_rows: bytes
    masks: bytes
    mask_words: int


def _table(index: outlines_core.Index, vocabulary: Vocabulary) -> _Table:
    """What `index` says from behind `_START`."""
    vocab_size, mask_words = len(vocabulary.tokens), vocabulary.mask_words
    first = index.get_next_state(index.get_initial_state(), vocab_size + 1)
    places, waiting = {first: 0}, deque([first])
    counts, tokens, states, may_end, mask_rows, masks = [], [], [], [], [], []
    while waiting:
        state = waiting.popleft()
        own = np.array(index.get_allowed_tokens(state) or (), dtype=np.int32)
        own = np.sort(own[own < vocab_size])
        next_states = [index.get_next_state(state, token) for token in own.tolist()]
        for each in next_states:
            if each not in places:
                places[each] = len(places)
                waiting.append(each)
        counts.append(len(own))
        tokens.append(own)
        states.append(np.array([places[each] for each in next_states], dtype=np.int32))
        may_end.append(index.is_final_state(state))
        is_wide = own.nbytes > 4 * mask_words
        mask_rows.append(len(masks) if is_wide else -1)
        if is_wide:
            masks.append(np.zeros(mask_words, dtype=np.int32))
            _set_bits(masks[-1], own)
    return _Table(
        begins=np.cumsum([0, *counts], dtype=np.int64).tobytes(),
        tokens=b"".join(each.tobytes() for each in tokens),
        states=b"".join(each.tobytes() for each in states),
        may_end=np.array(may_end, dtype=bool).tobytes(),
        mask_rows=np.array(mask_rows, dtype=np.int32).tobytes(),
        masks=b"".join(each.tobytes() for each in masks),
        mask_words=mask_words,
    )


def _set_bits(mask: np.ndarray, tokens: np.ndarray) -> None:
    bits = np.left_shift(1, tokens % 32, dtype=np.uint32, casting="unsafe")
    np.bitwise_or.at(mask.view(np.uint32), tokens // 32, bits)


class _Compiled(CompiledGrammar):
    def __init__(self, table: _Table, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._steps: dict[int, tuple[bytes, int | None]] = {}
        self.begins = np.frombuffer(table.begins, dtype=np.int64)
        self.tokens = np.frombuffer(table.tokens, dtype=np.int32)
        self.states = np.frombuffer(table.states, dtype=np.int32)
        self.may_end = np.frombuffer(table.may_end, dtype=bool)
        self.mask_rows = np.frombuffer(table.mask_rows, dtype=np.int32)
        self.masks = np.frombuffer(table.masks, dtype=np.int32).reshape(-1, table.mask_words)

    def matcher(self) -> GrammarMatcher:
        return _Matcher(self)

    def transitions(self, state: int) -> slice:
        """Where those of `state` are."""
        begin, end = self.begins[state : state + 2].tolist()
        return slice(begin, end)

    def forced_text(self, state: int) -> bytes:
        """What comes after `state` in every text, or the beginning of it."""
        text, after = b"", state
        for _ in range(LONGEST_FORCED):
            piece, after = self._step(after)
            text += piece
            if after is None:
                break
        return text

    def _step(self, state: int) -> tuple[bytes, int | None]:
        """What all tokens that may come begin with, and the state after that, if one is just it."""
        if self.may_end[state] or self.mask_rows[state] >= 0:  # so many tokens are a choice
            return b"", None
        if state not in self._steps:
            own = self.transitions(state)
            texts = [self._vocabulary.tokens[token] for token in self.tokens[own].tolist()]
            piece = _common_prefix(texts)
            next_states = dict(zip(texts, self.states[own].tolist(), strict=True))
            self._steps[state] = piece, next_states.get(piece)
        return self._steps[state]


def _common_prefix(texts: list[bytes]) -> bytes:
    first, last = min(texts, default=b""), max(texts, default=b"")
    same = (a == b for a, b in zip(first, last, strict=False))
    return first[: sum(itertools.takewhile(bool, same))]


class _Matcher(GrammarMatcher):
    def __init__(self, grammar: _Compiled) -> None:
        self._grammar = grammar
        self._state = 0
        self._before: list[int] = []

    @property
    def _range(self) -> slice:
        return self._grammar.transitions(self._state)

    def accept(self, token: int) -> bool:
        own = self._range
        place = own.start + int(np.searchsorted(self._grammar.tokens[own], token))
        if place == own.stop or self._grammar.tokens[place] != token:
            return False
        self._before.append(self._state)
        self._state = int(self._grammar.states[place])
        return True

    def rollback(self, count: int) -> None:
        if count:
            self._state = self._before[-count]
            del self._before[-count:]

    def forced_text(self) -> bytes:
        return self._grammar.forced_text(self._state)

    def fill_mask(self, mask: np.ndarray) -> None:
        row = self._grammar.mask_rows[self._state]
        if row >= 0:
            mask[:] = self._grammar.masks[row]
        else:
            mask.fill(0)
            _set_bits(mask, self._grammar.tokens[self._range])

    @property
    def is_complete(self) -> bool:
        return bool(self._grammar.may_end[self._state])
