"""Slots change hands without leaks, through any life of many sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.cache.kv_cache import KVCache
from worker.cache.slot_allocator import OutOfSlots, SlotAllocator


def text(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def run(cache: KVCache, tokens: np.ndarray):
    """A sequence that computes all of `tokens`."""
    sequence = cache.begin(cache.match(tokens[:-1]))
    assert cache.grow(sequence, len(tokens))
    sequence.computed = len(tokens)
    return sequence


@settings(max_examples=200, deadline=None)
@given(data=st.data(), page_size=st.sampled_from([1, 4]), disabled=st.booleans())
def test_the_invariant_holds_through_random_lives(data, page_size, disabled):
    cache = KVCache(64, 6, 40, page_size=page_size, disable_radix_cache=disabled)
    alive: list = []
    for _ in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(["begin", "grow", "publish", "end"]))
        if action == "begin" and cache.free_rows:
            tokens = np.array(
                data.draw(st.lists(st.integers(0, 1), min_size=40, max_size=40)), dtype=np.int32
            )
            alive.append((cache.begin(cache.match(tokens[:-1])), tokens))
        elif alive:
            index = data.draw(st.integers(0, len(alive) - 1))
            sequence, tokens = alive[index]
            if action == "grow":
                length = data.draw(st.integers(1, 40))
                before = cache.available_tokens
                fits = cache.grow(sequence, length)
                if fits:
                    sequence.computed = max(sequence.computed, length)
                else:
                    assert length - sequence.allocated > before - before % page_size - page_size
            elif action == "publish":
                cache.publish(sequence, tokens)
            elif action == "end":
                cache.end(sequence, tokens)
                del alive[index]
        cache.check()
        check_slots(cache, [sequence for sequence, _ in alive])
    for sequence, tokens in alive:
        cache.end(sequence, tokens)
    cache.check()
    assert (cache.held_tokens, cache.tree.locked_tokens) == (0, 0)
    cache.flush()
    assert cache.free_tokens == 64


def check_slots(cache: KVCache, sequences: list) -> None:
    """Every slot has one owner: the free list, the tree, or one sequence."""
    own = [cache.slots(s, s.cached, s.allocated) for s in sequences]
    tree = [node.slots for node in cache.tree.nodes()]
    slots = np.concatenate([*own, *tree, np.empty(0, dtype=np.int32)])
    assert len(np.unique(slots)) == len(slots)
    assert len(slots) + cache.free_tokens == cache.total_tokens
    in_tree = set(np.concatenate([*tree, np.empty(0, dtype=np.int32)]).tolist())
    for sequence in sequences:
        assert set(cache.slots(sequence, 0, sequence.cached).tolist()) <= in_tree


def test_a_finished_prefix_is_reused_with_the_same_slots():
    cache = KVCache(32, 4, 16)
    first = run(cache, text(1, 2, 3, 4))
    slots = cache.slots(first, 0, 4).copy()
    cache.end(first, text(1, 2, 3, 4))
    second = cache.begin(cache.match(text(1, 2, 3, 9)))
    assert second.cached == 3
    assert cache.slots(second, 0, 3).tolist() == slots[:3].tolist()


def test_two_that_computed_the_same_at_once_end_up_sharing_one_copy():
    cache = KVCache(32, 4, 16)
    tokens = text(1, 2, 3, 4)
    a, b = run(cache, tokens), run(cache, tokens)
    cache.publish(a, tokens)
    cache.publish(b, tokens)
    assert cache.slots(a, 0, 4).tolist() == cache.slots(b, 0, 4).tolist()
    assert (cache.free_tokens, cache.cached_tokens, cache.held_tokens) == (28, 4, 0)


def test_growing_evicts_what_nobody_uses_and_never_what_is_locked():
    cache = KVCache(8, 4, 8)
    cache.end(run(cache, text(1, 1, 1, 1)), text(1, 1, 1, 1))
    running = run(cache, text(2, 2, 2, 2))
    cache.publish(running, text(2, 2, 2, 2))
    other = cache.begin(cache.match(text(3)))
    assert cache.grow(other, 4)
    assert cache.match_length(text(1, 1, 1, 1)) == 0
    assert cache.match_length(text(2, 2, 2, 2)) == 4
    assert not cache.grow(other, 5)
    cache.check()


def test_only_whole_pages_are_shared():
    cache = KVCache(32, 4, 16, page_size=4)
    tokens = text(1, 2, 3, 4, 5, 6)
    cache.end(run(cache, tokens), tokens)
    assert (cache.free_tokens, cache.cached_tokens) == (28, 4)
    assert len(cache.match(tokens)) == 4


def test_flushing_under_running_requests_is_refused():
    cache = KVCache(32, 4, 16)
    run(cache, text(1, 2))
    with pytest.raises(AssertionError, match="running"):
        cache.flush()


def test_the_allocator_refuses_what_it_does_not_have_and_notices_double_frees():
    allocator = SlotAllocator(8, page_size=4)
    slots = allocator.allocate(5)
    assert slots.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(OutOfSlots):
        allocator.allocate(1)
    allocator.free(slots)
    with pytest.raises(AssertionError, match="twice"):
        allocator.free(slots)
