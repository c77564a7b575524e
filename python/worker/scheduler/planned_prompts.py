"""Prompts that a step is going to compute, for those that would compute the same again."""

from __future__ import annotations

import numpy as np

from ..cache.kv_cache import KVCache
from ..cache.radix_cache import common_prefix_length
from .request import Request
from .step import PrefillChunk

# A waiting request whose prompt shares at least this many more tokens with a prompt that is just
# being computed than with the cache waits for that prompt instead of computing the same again.
WAIT_FOR_SHARED_TOKENS = 32


class PlannedPrompts:
    """The prompts of a step that is being planned, found by their first tokens."""

    def __init__(self, cache: KVCache, planned: list[PrefillChunk]) -> None:
        self._cache = cache
        self._by_start: dict[bytes, list[np.ndarray]] = {}
        for chunk in planned:
            self.add(chunk)

    def add(self, chunk: PrefillChunk) -> None:
        text = chunk.request.text[: chunk.end]
        self._by_start.setdefault(_start_of(text), []).append(text)

    def will_give_more(self, request: Request) -> bool:
        """Whether one of them will give `request` much more than the cache has."""
        text = request.text
        similar = self._by_start.get(_start_of(text))
        if self._cache.disabled or similar is None:
            return False
        shared = max(common_prefix_length(text, planned) for planned in similar)
        return shared - self._cache.match_length(text) >= WAIT_FOR_SHARED_TOKENS


def _start_of(text: np.ndarray) -> bytes:
    return text[:WAIT_FOR_SHARED_TOKENS].tobytes()
