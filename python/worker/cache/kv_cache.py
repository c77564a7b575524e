"""Who holds which slots: page table rows, a sequence's slots, and their way into the tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .radix_cache import Match, Node, RadixCache, lowest_common_depth
from .slot_allocator import SlotAllocator

_NOTHING = np.empty(0, dtype=np.int32)


@dataclass
class Sequence:
    """The slots of one running request, in tokens from the start of its text.

        0 ............ cached ............ computed ............ allocated
        | the tree's,  | its own, with     | its own, nothing    |
        | locked       | keys and values   | written there yet   |

    `row` is its row of the page table; `node` ends the locked path in the tree.
    """

    row: int
    node: Node
    cached: int
    computed: int
    allocated: int

    @property
    def held(self) -> int:
        """Tokens' worth of slots that belong to this sequence alone."""
        return self.allocated - self.cached

    @property
    def slot_order(self) -> tuple[int, ...]:
        """A sorting key that puts sequences with the same cached prefix side by side."""
        return self.node.slot_order

    def shared_length(self, other: Sequence) -> int:
        """How many first tokens of both lie in the very same slots."""
        return lowest_common_depth(self.node, self.cached, other.node, other.cached)


class KVCache:
    """Slots, page table and radix tree of one rank; free + cached + held = total at all times.

    `table` [max_sequences, max_length] int32 is the page table. With `track_changes` a copy of it
    can be kept current elsewhere, by `table_changes`.
    """

    def __init__(
        self,
        total_tokens: int,
        max_sequences: int,
        max_length: int,
        *,
        page_size: int = 1,
        disable_radix_cache: bool = False,
        track_changes: bool = False,
    ) -> None:
        self.page_size = page_size
        self.disabled = disable_radix_cache
        self.allocator = SlotAllocator(total_tokens, page_size)
        self.tree = RadixCache(self.allocator)
        columns = -(-max_length // page_size) * page_size
        self.table = np.zeros((max_sequences, columns), dtype=np.int32)
        self._free_rows = list(range(max_sequences - 1, -1, -1))
        self.held_tokens = 0
        self._changes: list[np.ndarray] | None = [] if track_changes else None

    # ===== sizes, in tokens =====

    @property
    def total_tokens(self) -> int:
        return self.allocator.total_tokens

    @property
    def free_tokens(self) -> int:
        return self.allocator.free_tokens

    @property
    def cached_tokens(self) -> int:
        return self.tree.cached_tokens

    @property
    def available_tokens(self) -> int:
        """Free, or cached and evictable."""
        return self.allocator.free_tokens + self.tree.evictable_tokens

    @property
    def used_tokens(self) -> int:
        """What is not available: held, or cached and locked."""
        return self.total_tokens - self.available_tokens

    @property
    def free_rows(self) -> int:
        return len(self._free_rows)

    def check(self) -> None:
        """Assert the memory invariant."""
        counts = (self.free_tokens, self.cached_tokens, self.held_tokens)
        assert sum(counts) == self.total_tokens, (
            f"KV slots leak: free + cached + held = {counts}, of {self.total_tokens}"
        )

    # ===== a sequence's life =====

    def match(self, tokens: np.ndarray) -> Match:
        """The longest cached prefix of `tokens` [n] int32."""
        if self.disabled:
            return Match(_NOTHING, self.tree.root)
        return self.tree.match(tokens)

    def match_length(self, tokens: np.ndarray) -> int:
        """How much of `tokens` is cached, without marking it as used."""
        return 0 if self.disabled else self.tree.match_length(tokens)

    def begin(self, match: Match) -> Sequence:
        """Take a row of the page table and lock the cached prefix `match`."""
        row = self._free_rows.pop()
        self.tree.lock(match.node)
        length = len(match)
        self.table[row, :length] = match.slots
        self._changed(row, 0, length)
        return Sequence(row, match.node, cached=length, computed=length, allocated=length)

    def grow(self, sequence: Sequence, length: int) -> bool:
        """Give `sequence` slots for `length` tokens, by eviction if need be; False if they lack."""
        missing = length - sequence.allocated
        if missing <= 0:
            return True
        missing = -(-missing // self.page_size) * self.page_size
        if missing > self.allocator.free_tokens:
            self.tree.evict(missing - self.allocator.free_tokens)
            if missing > self.allocator.free_tokens:
                return False
        slots = self.allocator.allocate(missing)
        end = sequence.allocated + missing
        self.table[sequence.row, sequence.allocated : end] = slots
        self._changed(sequence.row, sequence.allocated, end)
        sequence.allocated = end
        self.held_tokens += missing
        return True

    def grow_by_one(self, sequences: list[Sequence], lengths: np.ndarray) -> bool:
        """Give each of `sequences` a slot for its last token, of `lengths` [n] int32; all or none.

        These slots are not among the table's changes: a decode step brings its own.
        """
        full = [s for s, n in zip(sequences, lengths.tolist(), strict=True) if s.allocated < n]
        missing = len(full) * self.page_size
        if missing > self.allocator.free_tokens:
            self.tree.evict(missing - self.allocator.free_tokens)
            if missing > self.allocator.free_tokens:
                return False
        if not full:
            return True
        slots = self.allocator.allocate(missing).reshape(-1, self.page_size)
        rows = np.array([s.row for s in full])
        columns = np.array([s.allocated for s in full])[:, None] + np.arange(self.page_size)
        self.table[rows[:, None], columns] = slots
        for sequence in full:
            sequence.allocated += self.page_size
        self.held_tokens += missing
        return True

    def table_changes(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of the flattened page table written since `forget_table_changes`.

        Returns indices and slots, [n] int32 each.
        """
        if not self._changes:
            return _NOTHING, _NOTHING
        indices = np.concatenate(self._changes)
        return indices, self.table.reshape(-1)[indices]

    def forget_table_changes(self) -> None:
        """The copy has them."""
        if self._changes:
            self._changes.clear()

    def _changed(self, row: int, start: int, end: int) -> None:
        if self._changes is not None and start < end:
            first = row * self.table.shape[1]
            self._changes.append(np.arange(first + start, first + end, dtype=np.int32))

    def slots(self, sequence: Sequence, start: int, end: int) -> np.ndarray:
        """The slots of tokens [start, end): a view [end - start] int32."""
        return self.table[sequence.row, start:end]

    def publish(self, sequence: Sequence, tokens: np.ndarray) -> None:
        """Let others use what `sequence` has computed; `tokens` [>= computed] int32 are its text.

        0 ...... cached ...... known ...... whole ...... computed ... allocated
        | tree's | duplicates: | new: the   | rest of a  | its own    |
        |        | freed       | tree's now | page: own  |            |
        """
        if self.disabled:
            return
        whole = sequence.computed - sequence.computed % self.page_size
        if whole <= sequence.cached:
            return
        known, match = self.tree.insert(tokens[:whole], self.slots(sequence, 0, whole))
        assert known >= sequence.cached, "the locked prefix stays in the tree"
        self.tree.lock(match.node)
        self.tree.unlock(sequence.node)
        self._free_own(self.slots(sequence, sequence.cached, known))
        self.table[sequence.row, sequence.cached : whole] = match.slots[sequence.cached :]
        self._changed(sequence.row, sequence.cached, known)
        self.held_tokens -= whole - known
        sequence.node, sequence.cached = match.node, whole

    def end(self, sequence: Sequence, tokens: np.ndarray) -> None:
        """The sequence leaves: what it computed goes to the tree, unlocked; all else is freed."""
        self.publish(sequence, tokens)
        self._free_own(self.slots(sequence, sequence.cached, sequence.allocated))
        self.tree.unlock(sequence.node)
        self._free_rows.append(sequence.row)

    def flush(self) -> None:
        """Empty the tree. Only while no sequence is running."""
        assert self.held_tokens + self.tree.locked_tokens == 0, "requests are running"
        self.tree.reset()
        self.allocator.reset()

    def _free_own(self, slots: np.ndarray) -> None:
        if len(slots):
            self.allocator.free(slots)
            self.held_tokens -= len(slots)
