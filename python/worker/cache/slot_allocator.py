"""Free list of KV-cache pages: a slot holds one token's KV, a page `page_size` slots."""

from __future__ import annotations

import numpy as np


class OutOfSlots(RuntimeError):
    """More pages were asked for than are free. The caller checks `free_tokens` first."""


class SlotAllocator:
    """Hands out slots by whole pages, from a stack: memory freed last is used again first."""

    def __init__(self, total_tokens: int, page_size: int = 1) -> None:
        assert total_tokens % page_size == 0, "the pool holds whole pages"
        self.page_size = page_size
        self.total_tokens = total_tokens
        self._offsets = np.arange(page_size, dtype=np.int32)
        self.reset()

    def reset(self) -> None:
        """Everything is free again, lowest slots first."""
        pages = self.total_tokens // self.page_size
        self._stack = np.arange(pages - 1, -1, -1, dtype=np.int32)
        self._free_pages = pages

    @property
    def free_tokens(self) -> int:
        return self._free_pages * self.page_size

    def allocate(self, tokens: int) -> np.ndarray:
        """Slots for `tokens` tokens, rounded up to whole pages: [pages * page_size] int32."""
        pages = -(-tokens // self.page_size)
        if pages > self._free_pages:
            raise OutOfSlots(f"{pages} pages asked for, {self._free_pages} free")
        top = self._free_pages - pages
        taken = self._stack[top : self._free_pages][::-1]
        self._free_pages = top
        if self.page_size == 1:
            return taken.copy()
        return (taken[:, None] * self.page_size + self._offsets).reshape(-1)

    def free(self, slots: np.ndarray) -> None:
        """Give back whole pages: `slots` [pages * page_size] int32, as `allocate` returned them."""
        pages = slots[:: self.page_size] // self.page_size
        top = self._free_pages + len(pages)
        assert top <= len(self._stack), "a slot was freed twice"
        self._stack[self._free_pages : top] = pages
        self._free_pages = top
