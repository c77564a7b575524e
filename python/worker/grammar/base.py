"""What a grammar backend is: compiles grammars for one vocabulary, and follows answers in them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import msgspec
import numpy as np

from ..messages import GrammarSpec

# Bytes of a forced text that are looked at together: more of it follows with the next step.
LONGEST_FORCED = 1024


class GrammarError(ValueError):
    """A grammar cannot be used; the text says why, for the user."""


def shown(value: Any) -> str:
    """A JSON value for an error message, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Vocabulary(msgspec.Struct, frozen=True, array_like=True):
    """What each token id adds to a text: [vocab] bytes, none for special and unused tokens.

    Those without bytes never come in a text that is held to a grammar; but in a structural tag may
    those that are `special`, and are written so.
    """

    tokens: list[bytes]
    special: dict[int, bytes] = {}

    @property
    def mask_words(self) -> int:
        """Length of a mask in int32: a bit for each token, and one or more behind them."""
        return len(self.tokens) // 32 + 1

    @property
    def last_word(self) -> np.uint32:
        """The bits of tokens in the last word of a mask."""
        return np.uint32((1 << len(self.tokens) % 32) - 1)


class GrammarMatcher(ABC):
    """One text on its way through a grammar."""

    @abstractmethod
    def accept(self, token: int) -> bool:
        """Go on with `token`; False, and nothing done, if the grammar does not allow it."""

    @abstractmethod
    def fill_mask(self, mask: np.ndarray) -> None:
        """Set the bits of the tokens that may come next, and clear those of all others.

        mask: [mask_words] int32; token i is bit i % 32 of word i // 32, and what becomes of bits
            behind the vocabulary does not matter
        """

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the text may end here."""

    @property
    def failure(self) -> str | None:
        """Why the library cannot follow the text any further, if that is beyond its limits."""
        return None

    @abstractmethod
    def forced_text(self) -> bytes:
        """What comes next for certain, maybe up to the middle of a character; nothing where there
        is a choice, or the text may end. A special token may come instead.
        """

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens that were accepted."""


class CompiledGrammar(ABC):
    """A grammar for the backend's vocabulary; any number of texts can follow it."""

    @abstractmethod
    def matcher(self) -> GrammarMatcher:
        """For a text at its start."""


class GrammarBackend(ABC):
    """For one vocabulary. `compile` and `load` may be called in different processes."""

    @abstractmethod
    def compile(self, spec: GrammarSpec) -> bytes:
        """Do what takes time. Raises GrammarError."""

    @abstractmethod
    def load(self, compiled: bytes) -> CompiledGrammar:
        """What `compile` has made."""
