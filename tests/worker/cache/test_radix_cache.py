"""The radix cache does what a list of all cached texts would do, and its counts are right."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.cache.radix_cache import Node, RadixCache
from worker.cache.slot_allocator import SlotAllocator

TOTAL = 96


class NaiveCache:
    """Every cached prefix as a tuple of tokens, in whole pages, with the time of its last use."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.used: dict[tuple[int, ...], int] = {}
        self.now = 0

    def match(self, tokens: tuple[int, ...], *, touch: bool = True) -> int:
        self.now += touch
        longest = 0
        for end in range(self.page_size, len(tokens) + 1, self.page_size):
            if tokens[:end] not in self.used:
                break
            longest = end
            if touch:
                self.used[tokens[:end]] = self.now
        return longest

    def insert(self, tokens: tuple[int, ...]) -> int:
        known = self.match(tokens)
        for end in range(self.page_size, len(tokens) + 1, self.page_size):
            self.used[tokens[:end]] = self.now
        return known


def tokens_of(cache: RadixCache, node: Node) -> tuple[int, ...]:
    keys = []
    current: Node | None = node
    while current is not None:
        keys.append(current.key)
        current = current.parent
    return tuple(int(t) for t in np.concatenate(keys[::-1]))


def check_structure(cache: RadixCache, locks: list[Node]) -> None:
    nodes = list(cache.nodes())
    assert cache.cached_tokens == sum(len(n) for n in nodes)
    assert cache.locked_tokens == sum(len(n) for n in nodes if n.lock_count)
    assert cache.allocator.free_tokens + cache.cached_tokens == TOTAL
    slots = np.concatenate([n.slots for n in nodes]) if nodes else np.empty(0)
    assert len(np.unique(slots)) == len(slots), "no slot has two owners"
    on_path: dict[int, int] = {}
    for locked in locks:
        current: Node | None = locked
        while current is not None:
            on_path[id(current)] = on_path.get(id(current), 0) + 1
            current = current.parent
    for node in nodes:
        assert len(node) > 0
        assert len(node) % cache.page_size == 0
        assert node.lock_count == on_path.get(id(node), 0)
        assert node.parent is cache.root or node.parent in nodes


texts = st.lists(st.integers(0, 2), min_size=0, max_size=12).map(tuple)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), texts),
        st.tuples(st.just("match"), texts),
        st.tuples(st.just("lock"), texts),
        st.tuples(st.just("unlock"), st.integers(0, 5)),
        st.tuples(st.just("evict"), st.integers(1, 20)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(operations=operations, page_size=st.sampled_from([1, 2, 3]))
def test_agrees_with_a_naive_cache(operations, page_size):
    allocator = SlotAllocator(TOTAL, page_size)
    cache, naive = RadixCache(allocator), NaiveCache(page_size)
    slot_of: dict[tuple[tuple[int, ...], int], int] = {}
    locks: list[Node] = []

    def place(tokens: tuple[int, ...], i: int) -> tuple[tuple[int, ...], int]:
        """Token `i`'s slot is decided by the text up to the end of its page."""
        return tokens[: (i // page_size + 1) * page_size], i

    for name, argument in operations:
        if name == "insert":
            tokens = argument[: len(argument) - len(argument) % page_size]
            if len(tokens) > allocator.free_tokens:
                continue
            slots = allocator.allocate(len(tokens))
            known, match = cache.insert(np.array(tokens, dtype=np.int32), slots)
            allocator.free(slots[:known])
            assert known == naive.insert(tokens)
            for i in range(known, len(tokens)):
                slot_of[place(tokens, i)] = int(slots[i])
            assert tokens_of(cache, match.node) == tokens
            assert match.slots.tolist() == [slot_of[place(tokens, i)] for i in range(len(tokens))]
        elif name in ("match", "lock"):
            wanted = np.array(argument, dtype=np.int32)
            assert cache.match_length(wanted) == naive.match(argument, touch=False)
            match = cache.match(wanted)
            assert len(match) == naive.match(argument)
            assert match.slots.tolist() == [slot_of[place(argument, i)] for i in range(len(match))]
            if name == "lock" and match.node is not cache.root:
                cache.lock(match.node)
                locks.append(match.node)
        elif name == "unlock" and locks:
            cache.unlock(locks.pop(argument % len(locks)))
        elif name == "evict":
            check_eviction(cache, naive, argument)
        check_structure(cache, locks)


def check_eviction(cache: RadixCache, naive: NaiveCache, wanted: int) -> None:
    evictable = cache.evictable_tokens
    freed = cache.evict(wanted)
    assert freed >= min(wanted, evictable)
    left = {tokens_of(cache, node) for node in cache.nodes()}
    kept = {text[:end] for text in left for end in range(cache.page_size, len(text) + 1)}
    gone = [text for text in naive.used if text not in kept]
    assert len(gone) * cache.page_size == freed
    unlocked_leaves = [
        tokens_of(cache, n) for n in cache.nodes() if not n.children and not n.lock_count
    ]
    for leaf in unlocked_leaves:
        # What went was used no later than any leaf that stays and could have gone instead.
        assert all(naive.used[text] <= naive.used[leaf] for text in gone)
    for text in gone:
        del naive.used[text]


def test_eviction_takes_the_least_recently_used_leaf_first():
    cache = RadixCache(SlotAllocator(12))
    for first in (1, 2, 3):
        cache.insert(np.full(4, first, dtype=np.int32), cache.allocator.allocate(4))
    cache.match(np.full(4, 1, dtype=np.int32))
    assert cache.evict(4) == 4
    assert [cache.match_length(np.full(4, first, dtype=np.int32)) for first in (1, 2, 3)] == [
        4,
        0,
        4,
    ]


def test_the_heap_holds_one_entry_a_node_however_often_it_is_used():
    cache = RadixCache(SlotAllocator(8))
    tokens = np.arange(4, dtype=np.int32)
    cache.insert(tokens, cache.allocator.allocate(4))
    for _ in range(100):
        match = cache.match(tokens)
        cache.lock(match.node)
        cache.unlock(match.node)
    assert len(cache._heap) == 1
