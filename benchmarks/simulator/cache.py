"""An LRU prefix cache over block ids. An id stands for its block and all that is before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Blocks, the least recently used first; of one prompt the last block goes first."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, int] = OrderedDict()
        """How many running requests use a block."""
        self.pinned = 0
        """Blocks that at least one running request uses."""

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading blocks are there."""
        for count, block in enumerate(blocks):
            if block not in self._blocks:
                return count
        return len(blocks)

    def insert(self, blocks: Sequence[int]) -> None:
        """Adds what is missing; all of it counts as just used."""
        for block in reversed(blocks):
            self._blocks.setdefault(block, 0)
            self._blocks.move_to_end(block)

    def pin(self, blocks: Sequence[int]) -> None:
        """Keeps blocks that are there until they are unpinned as often."""
        for block in blocks:
            users = self._blocks[block]
            self.pinned += users == 0
            self._blocks[block] = users + 1

    def unpin(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            users = self._blocks[block] - 1
            self.pinned -= users == 0
            self._blocks[block] = users

    def evict_down_to(self, count: int) -> None:
        """Evicts blocks that nobody uses, until `count` are left or all others are in use."""
        while len(self._blocks) > max(count, self.pinned):
            block, users = next(iter(self._blocks.items()))
            if users:
                self._blocks.move_to_end(block)
            else:
                del self._blocks[block]

    def clear(self) -> None:
        """Forgets what is not in use."""
        self.evict_down_to(0)
