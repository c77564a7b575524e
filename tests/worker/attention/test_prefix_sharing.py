"""What sequences share is read once, each of their keys by one item, within the limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worker.attention.prefix_sharing import (
    PrefixSharing,
    SharedPrefixes,
    SharingLimits,
    share_prefixes,
)

LIMITS = SharingLimits(
    tile_tokens=16, partial_keys=8.0, launch_keys=0.0, programs=8, partials=100_000
)
MANY = 1_000_000


def random_shared_lens(random: np.random.Generator, sequences: int) -> np.ndarray:
    """Of a random tree: any numbers are those of one."""
    depths = random.choice([0, 30, 64, 200, 1000, 5000], sequences).astype(np.int32)
    wiggle = random.integers(0, 2, sequences) * random.integers(0, 300, sequences)
    shared_lens = np.where(random.integers(0, 3, sequences) > 0, depths + wiggle, 2000)
    shared_lens[0] = 0
    return shared_lens.astype(np.int32)


def check(
    plan: SharedPrefixes, shared_lens: np.ndarray, tokens: np.ndarray, limits: SharingLimits
) -> None:
    """Every token sees its sequence's first `lengths` keys once, in slots that are its own, and
    writes each of its partial results once.
    """
    starts = np.append(0, np.cumsum(tokens))
    owner = np.repeat(np.arange(len(tokens)), tokens)
    seen: list[list[tuple[int, int]]] = [[] for _ in owner]
    ordinals: list[list[int]] = [[] for _ in owner]
    for leader, begin, end, first, count, ordinal in plan.items.tolist():
        assert 0 < count <= limits.tile_tokens
        assert first + count <= starts[-1]
        for token in range(first, first + count):
            low, high = sorted((leader, int(owner[token])))
            common = shared_lens[low + 1 : high + 1]  # the least along the way is what both share
            assert len(common) == 0 or common.min() >= end
            seen[token].append((begin, end))
            ordinals[token].append(ordinal)
    for token, sequence in enumerate(owner.tolist()):
        spans = sorted(seen[token])
        edges = [0, *(end for _, end in spans)]
        assert [begin for begin, _ in spans] == edges[:-1]
        assert edges[-1] == plan.lengths[sequence]
        assert sorted(ordinals[token]) == list(range(plan.partials[sequence]))
    assert plan.partials @ tokens <= limits.partials


@pytest.mark.parametrize("seed", range(40))
def test_keys_are_covered_once_and_results_do_not_collide(seed):
    random = np.random.default_rng(seed)
    sequences = int(random.integers(2, 120))
    shared_lens = random_shared_lens(random, sequences)
    tokens = np.ones(sequences, dtype=np.int32)
    if seed % 2:
        tokens = random.integers(1, 60, sequences).astype(np.int32)
    plan = share_prefixes(shared_lens, tokens, LIMITS, MANY)
    if plan is not None:
        check(plan, shared_lens, tokens, LIMITS)
    else:
        assert sequences < 10


@pytest.mark.parametrize("seed", range(30))
def test_a_plan_keeps_to_its_limits_and_to_the_size_that_was_promised(seed):
    random = np.random.default_rng(seed)
    sequences = int(random.integers(2, 400))
    limits = replace(
        LIMITS,
        programs=int(random.integers(1, 40)),
        partials=int(random.integers(2 * sequences, 9 * sequences)),
    )
    shared_lens = random_shared_lens(random, sequences)
    tokens = np.ones_like(shared_lens)
    plan = share_prefixes(shared_lens, tokens, limits, limits.max_tiles(sequences))
    if plan is not None:
        check(plan, shared_lens, tokens, limits)
        assert len(plan.items) <= limits.max_items(sequences)
        words = plan.words(limits.max_items(sequences)).reshape(-1, plan.items.shape[1])
        assert (words[: len(plan.items)] == plan.items).all()
        assert (words[len(plan.items) :, 0] == -1).all()


def spans_of(shared_lens: list[int], limits: SharingLimits = LIMITS) -> list[list[int]]:
    """(first key, end, first sequence, sequences) of what is shared, before it is cut."""
    lens = np.array(shared_lens, dtype=np.int32)
    plan = share_prefixes(lens, np.ones_like(lens), replace(limits, programs=1), MANY)
    return [] if plan is None else sorted(plan.items[:, [1, 2, 3, 4]].tolist())


def test_a_node_within_a_node_is_a_span_of_its_own():
    limits = replace(LIMITS, partial_keys=0.1)
    assert spans_of([0, 300, 500, 300, 0, 700], limits) == [
        [0, 300, 0, 4],
        [0, 700, 4, 2],
        [300, 500, 1, 2],
    ]


def test_a_span_that_saves_nothing_is_left_to_the_nodes_below():
    # Six sequences share 66 tokens: less than their partial results would cost.
    limits = replace(LIMITS, partial_keys=60.0)
    assert spans_of([0, 900, 900, 66, 900, 900], limits) == [[0, 900, 0, 3], [0, 900, 3, 3]]


def test_what_is_not_worth_a_launch_is_not_shared():
    saved = 15 * 256 - 16 * 8 - 64
    lens = [0, *[256] * 15]
    assert spans_of(lens, replace(LIMITS, launch_keys=saved))
    assert not spans_of(lens, replace(LIMITS, launch_keys=saved + 1))
    assert not spans_of([0] * 16)
    assert not spans_of([0])


def test_the_largest_savings_come_first_where_not_all_have_room():
    lens = np.array([0, 200, 0, 3000, 0, 1000], dtype=np.int32)
    plan = share_prefixes(lens, np.ones_like(lens), LIMITS, 2)
    assert plan is not None
    assert plan.lengths.tolist() == [0, 0, 3000, 3000, 1000, 1000]


def test_a_span_without_room_keeps_no_room_from_others():
    lens = np.array([0, *[2000] * 9, 0, *[900] * 3], dtype=np.int32)
    ones = np.ones_like(lens)
    plan = share_prefixes(lens, ones, replace(LIMITS, partials=8), MANY)
    assert plan is not None
    assert plan.lengths.tolist() == [0] * 10 + [900] * 4
    nested = np.array([0, *[2000] * 3, *[900] * 6], dtype=np.int32)
    plan = share_prefixes(nested, ones[:10], replace(LIMITS, partials=8), MANY)
    assert plan is not None
    assert plan.lengths.tolist() == [2000] * 4 + [0] * 6


@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_all_room_for_partial_results_is_used_and_no_more(tokens):
    shared_lens = np.array([0, *[9000] * 99], dtype=np.int32)
    each = np.full(100, tokens, dtype=np.int32)
    limits = replace(LIMITS, partials=800, programs=500)
    plan = share_prefixes(shared_lens, each, limits, MANY)
    assert plan is not None
    check(plan, shared_lens, each, limits)
    assert plan.lengths.tolist() == [9000] * 100
    assert (plan.partials[0] > 1) == (tokens == 1)
    assert share_prefixes(shared_lens, each, replace(limits, partials=99), MANY) is None


def test_few_long_spans_are_cut_until_they_fill_the_chip_and_many_are_not():
    few, many = ([0, *[4096] * 15] * groups for groups in (1, 64))
    limits = replace(LIMITS, programs=32)
    for lens, parts in ((few, 16), (many, 1)):
        shared_lens = np.array(lens, dtype=np.int32)
        plan = share_prefixes(shared_lens, np.ones_like(shared_lens), limits, MANY)
        assert plan is not None
        assert set(plan.partials.tolist()) == {parts}


def test_items_are_ordered_by_length_and_tiles_of_one_span_stand_side_by_side():
    lens = np.array([0, *[300] * 3, 0, *[2000] * 39], dtype=np.int32)
    plan = share_prefixes(lens, np.ones_like(lens), replace(LIMITS, programs=1), MANY)
    assert plan is not None
    assert plan.items[:, 3].tolist() == [4, 20, 36, 0]


def test_a_plan_is_made_again_only_when_what_is_shared_has_changed():
    sharing = PrefixSharing(LIMITS)
    lens = np.array([0, 900, 900], dtype=np.int32)
    plan = sharing.of_decodes(lens)
    assert plan is not None
    assert sharing.of_decodes(lens.copy()) is plan
    lens[2] = 0  # the caller's array may be used again
    changed = sharing.of_decodes(lens)
    assert changed is not None
    assert changed.lengths.tolist() == [900, 900, 0]
    assert sharing.of_decodes(np.zeros(2, dtype=np.int32)) is None


def test_long_chunks_fill_their_tiles_alone_and_short_ones_together():
    sharing = PrefixSharing(LIMITS)
    shared_lens = np.array([0, *[2048] * 15], dtype=np.int32)
    short = sharing.of_chunks(shared_lens, np.full(16, 6, dtype=np.int32))
    assert short is not None
    assert short.lengths.tolist() == [2048] * 16
    assert set(short.items[:, 4].tolist()) == {16}
    assert sharing.of_chunks(shared_lens, np.full(16, 100, dtype=np.int32)) is None
