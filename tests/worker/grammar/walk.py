"""A model that does not want to obey: texts at random, as a grammar allows them."""

from __future__ import annotations

import random

import numpy as np

from worker.grammar.base import CompiledGrammar, Vocabulary
from worker.grammar.constraint import Constraint

STOP = 0
# Single bytes and a few longer tokens; the first has no text.
BYTES = Vocabulary(
    [b"", *(bytes([i]) for i in range(256)), b'{"', b'": ', b', "', b"true", b"\xc3\xa9", b'"}']
)
# What ends things: without a liking for it, texts would go on for ever.
_CLOSING = frozenset(b'"}]0')


def allowed(constraint: Constraint, vocab_size: int) -> list[int]:
    bits = np.unpackbits(constraint.mask.view(np.uint8), bitorder="little")
    assert not bits[vocab_size:].any() or constraint.finish is not None
    return np.flatnonzero(bits[:vocab_size]).tolist()


def random_text(
    grammar: CompiledGrammar, rng: random.Random, *, longest: int = 300
) -> bytes | None:
    """A whole text; None if it did not come to its end."""
    constraint = Constraint(grammar, BYTES, [STOP])
    text = b""
    for place in range(longest):
        if constraint.finish is not None:
            assert constraint.finish.kind == "stop", constraint.finish
            return text
        choices = allowed(constraint, len(BYTES.tokens))
        closing = [i for i in choices if i != STOP and BYTES.tokens[i][-1] in _CLOSING]
        token = rng.choice(closing if closing and rng.random() < 0.4 else choices)
        if STOP in choices and rng.random() < 0.5:
            token = STOP
        if token == STOP:
            return text
        constraint.accept(place, token)
        text += BYTES.tokens[token]
    return None


def accepts(grammar: CompiledGrammar, text: bytes) -> bool:
    """Whether `text` is allowed as a whole, byte by byte."""
    matcher = grammar.matcher()
    return all(matcher.accept(1 + byte) for byte in text) and matcher.is_complete
