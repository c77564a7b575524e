"""Token ids for prompts that are given as embeddings."""

from __future__ import annotations

from ..messages import InputEmbeds

# So many rows are known at a time; when more come, all are forgotten, which costs cached prefixes.
_LIMIT = 1 << 18
_LOWEST_ID = -(2**31)


class EmbeddedTokens:
    """Rows as tokens of a vocabulary of their own: equal rows have the same id, below 0, and others
    never do. So the prefix cache knows such prompts like any, and from any other.

    An id is given anew after 2^31 others, when no cache can hold the old one's keys any more.
    """

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._next = -1

    def ids(self, embeds: InputEmbeds) -> list[int]:
        """One for each row."""
        if len(self._ids) + len(embeds) > _LIMIT:
            self._ids.clear()
        size, digests = embeds.DIGEST_BYTES, embeds.digests
        return [self._id(digests[at : at + size]) for at in range(0, len(digests), size)]

    def _id(self, digest: bytes) -> int:
        known = self._ids.get(digest)
        if known is None:
            known = self._ids[digest] = self._next
            self._next = self._next - 1 if self._next > _LOWEST_ID else -1
        return known
