"""Prompts that a step is going to compute, for those that would compute the same again."""

from __future__ import annotations

from ..cache.kv_cache import KVCache
from .request import START_TOKENS, Request
from .step import PrefillChunk

# A waiting request whose prompt shares at least this many more tokens with a prompt that is just
# being computed than with the cache waits for that prompt instead of computing the same again.
WAIT_FOR_SHARED_TOKENS = START_TOKENS


class PlannedPrompts:
    """The prompts of which a step that is being planned computes a chunk, found by their start.

    Of a prompt in several chunks all counts: the next steps compute what this one does not.
    """

    def __init__(self, cache: KVCache, planned: list[PrefillChunk]) -> None:
        self._cache = cache
        self._by_start: dict[bytes, list[bytes]] = {}
        for chunk in planned:
            self.add(chunk.request)

    def add(self, request: Request) -> None:
        """A chunk of `request` is planned."""
        self._by_start.setdefault(request.start, []).append(request.text.tobytes())

    def will_give_more(self, request: Request) -> bool:
        """Whether one of them will give `request` much more than the cache has."""
        similar = self._by_start.get(request.start)
        if self._cache.disabled or similar is None:
            return False
        text, page = request.reusable, self._cache.page_size
        cached = self._cache.match_length(text)
        more = -(-WAIT_FOR_SHARED_TOKENS // page) * page
        if len(text) < cached + more:
            return False
        known, wanted = text[:cached].tobytes(), text[cached : cached + more].tobytes()
        # What is wanted comes first: prompts that differ mostly differ there.
        return any(
            planned.startswith(wanted, len(known)) and planned.startswith(known)
            for planned in similar
        )
