"""Radix tree over token ids: which KV slots hold which prefix, and which may be taken back."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .slot_allocator import SlotAllocator

_NOTHING = np.empty(0, dtype=np.int32)


def common_prefix_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many leading tokens `a` and `b`, both int32, have in common."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


@dataclass(eq=False)
class Node:
    """An edge of the tree and the node at its end; token `key[i]` has its KV in slot `slots[i]`.

    `lock_count` counts the requests that use this node or one below it. `queued` says that the
    node has an entry in the eviction heap.
    """

    key: np.ndarray
    slots: np.ndarray
    parent: Node | None
    last_access: int
    children: dict[bytes, Node] = field(default_factory=dict)
    lock_count: int = 0
    queued: bool = False

    def __len__(self) -> int:
        return len(self.key)

    @property
    def slot_order(self) -> tuple[int, ...]:
        """A sorting key: nodes stand in the lexicographic order of all slots from the root on.

        No two children of a node begin with the same slot, so the first of each node decide. Keys
        of different times do not compare: a split makes them longer.
        """
        first_slots = []
        node = self
        while node.parent is not None:
            first_slots.append(node.slots.item(0))
            node = node.parent
        return tuple(reversed(first_slots))


def lowest_common_depth(a: Node, a_depth: int, b: Node, b_depth: int) -> int:
    """Where the ways from the root to `a` and to `b` part; depths are in tokens from the root."""
    while a is not b:
        if a_depth < b_depth:
            a, a_depth, b, b_depth = b, b_depth, a, a_depth
        assert a.parent is not None, "both are in one tree"
        a, a_depth = a.parent, a_depth - len(a)
    return a_depth


@dataclass(frozen=True)
class Match:
    """The longest cached prefix: its slots [length] int32 and the node where it ends."""

    slots: np.ndarray
    node: Node

    def __len__(self) -> int:
        return len(self.slots)


class RadixCache:
    """Owns the slots of everything cached. Prefixes match, and are inserted, in whole pages.

    Eviction takes the least recently used leaf that no request locks. The heap is lazy: a node has
    one entry at most, and an entry whose stamp is old goes back with the new one when it comes up,
    so a look-up costs nothing there and an eviction O(log n), amortized.
    """

    def __init__(self, allocator: SlotAllocator) -> None:
        self.allocator = allocator
        self.page_size = allocator.page_size
        self.reset()

    def reset(self) -> None:
        """Forget everything. The slots are not freed: the allocator is reset with the tree."""
        self.root = Node(_NOTHING, _NOTHING, None, 0, lock_count=1)
        self.cached_tokens = 0
        self.locked_tokens = 0
        self._clock = 0
        self._sequence = 0
        self._heap: list[tuple[int, int, Node]] = []

    @property
    def evictable_tokens(self) -> int:
        return self.cached_tokens - self.locked_tokens

    # ===== look-up and insertion =====

    def match(self, tokens: np.ndarray) -> Match:
        """The longest cached prefix of `tokens` [n] int32, in whole pages; marks it as used now.

        An edge that matches in part is split, so that the node can be locked.
        """
        node, parts, _ = self._descend(tokens)
        return Match(np.concatenate(parts) if parts else _NOTHING, node)

    def match_length(self, tokens: np.ndarray) -> int:
        """Length of the longest cached prefix of `tokens`, without changing anything."""
        node, done, page = self.root, 0, self.page_size
        while len(tokens) - done >= page:
            child = node.children.get(tokens[done : done + page].tobytes())
            if child is None:
                break
            common = self._common(child.key, tokens[done:])
            done += common
            if common < len(child):
                break
            node = child
        return done

    def insert(self, tokens: np.ndarray, slots: np.ndarray) -> tuple[int, Match]:
        """Cache `tokens` [n] with their `slots` [n], n in whole pages.

        Returns how many leading tokens were cached before, and the match of all of `tokens`. The
        tree takes the slots behind that point; those before it stay the caller's.
        """
        assert len(tokens) == len(slots)
        assert len(tokens) % self.page_size == 0
        node, parts, known = self._descend(tokens)
        if known < len(tokens):
            leaf = Node(tokens[known:].copy(), slots[known:].copy(), node, self._tick())
            node.children[self._child_key(leaf.key)] = leaf
            self.cached_tokens += len(leaf)
            self._offer(leaf)
            parts.append(leaf.slots)
            node = leaf
        return known, Match(np.concatenate(parts) if parts else _NOTHING, node)

    def _descend(self, tokens: np.ndarray) -> tuple[Node, list[np.ndarray], int]:
        node, parts, done, page = self.root, [], 0, self.page_size
        now = self._tick()
        while len(tokens) - done >= page:
            child = node.children.get(tokens[done : done + page].tobytes())
            if child is None:
                break
            common = self._common(child.key, tokens[done:])
            if common < len(child):
                child = self._split(child, common)
            child.last_access = now
            parts.append(child.slots)
            done += common
            node = child
        return node, parts, done

    def _common(self, key: np.ndarray, tokens: np.ndarray) -> int:
        """Length of the common prefix, in whole pages."""
        common = common_prefix_length(key, tokens)
        return common - common % self.page_size

    def _split(self, node: Node, at: int) -> Node:
        """Cut `node` after `at` tokens; returns the new upper part, which keeps the locks."""
        parent = node.parent
        assert parent is not None
        assert 0 < at < len(node)
        upper = Node(node.key[:at], node.slots[:at], parent, node.last_access)
        upper.lock_count = node.lock_count
        parent.children[self._child_key(upper.key)] = upper
        node.key, node.slots, node.parent = node.key[at:], node.slots[at:], upper
        upper.children[self._child_key(node.key)] = node
        return upper

    def _child_key(self, key: np.ndarray) -> bytes:
        return key[: self.page_size].tobytes()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    # ===== locks =====

    def lock(self, node: Node) -> None:
        """Keep the path from the root to `node` from eviction."""
        current: Node | None = node
        while current is not None and current.parent is not None:
            if current.lock_count == 0:
                self.locked_tokens += len(current)
            current.lock_count += 1
            current = current.parent

    def unlock(self, node: Node) -> None:
        """Take one lock off the path from the root to `node`."""
        current: Node | None = node
        while current is not None and current.parent is not None:
            assert current.lock_count > 0, "a node was unlocked twice"
            current.lock_count -= 1
            if current.lock_count == 0:
                self.locked_tokens -= len(current)
                self._offer(current)
            current = current.parent

    # ===== eviction =====

    def evict(self, tokens: int) -> int:
        """Free the slots of `tokens` tokens or more, if so much is unlocked; returns how many."""
        freed = 0
        while freed < tokens and self._heap:
            stamp, _, node = heapq.heappop(self._heap)
            node.queued = False
            if not self._is_candidate(node):
                continue
            if stamp != node.last_access:
                self._offer(node)
                continue
            freed += self._remove(node)
        return freed

    def _is_candidate(self, node: Node) -> bool:
        return node.lock_count == 0 and not node.children and node.parent is not None

    def _offer(self, node: Node) -> None:
        if self._is_candidate(node) and not node.queued:
            self._sequence += 1
            heapq.heappush(self._heap, (node.last_access, self._sequence, node))
            node.queued = True

    def _remove(self, leaf: Node) -> int:
        parent = leaf.parent
        assert parent is not None
        del parent.children[self._child_key(leaf.key)]
        leaf.parent = None
        self.cached_tokens -= len(leaf)
        self.allocator.free(leaf.slots)
        self._offer(parent)
        return len(leaf)

    # ===== for tests and invariants =====

    def nodes(self) -> Iterator[Node]:
        """Every node but the root."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())
