"""What each rank holds: every head once, blocks that an all-gather puts together."""

from __future__ import annotations

import pytest

from worker.distributed.share import Share, balanced_share, block_share, head_shares


@pytest.mark.parametrize(("total", "ranks"), [(8, 2), (7, 3), (5, 8), (1, 1)])
@pytest.mark.parametrize("share", [balanced_share, block_share])
def test_the_parts_of_all_ranks_are_the_whole(share, total: int, ranks: int) -> None:
    parts = [share(total, rank, ranks) for rank in range(ranks)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(total))


def test_balanced_parts_differ_by_one_and_blocks_stop_short_at_the_end() -> None:
    assert [len(balanced_share(10, rank, 4)) for rank in range(4)] == [2, 3, 2, 3]
    assert [len(block_share(10, rank, 4)) for rank in range(4)] == [3, 3, 3, 1]


def test_a_share_counts_in_pieces() -> None:
    assert Share(1, 3, 4).times(16) == Share(16, 48, 64)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "expected"),
    [
        (32, 8, 2, [((0, 16), (0, 4)), ((16, 32), (4, 8))]),
        (9, 3, 2, [((0, 3), (0, 1)), ((3, 9), (1, 3))]),  # SmolLM2-135M
        (4, 1, 2, [((0, 2), (0, 1)), ((2, 4), (0, 1))]),
        (6, 2, 4, [((0, 1), (0, 1)), ((1, 3), (0, 1)), ((3, 4), (1, 2)), ((4, 6), (1, 2))]),
    ],
)
def test_queries_stay_with_their_key_value_heads(heads, kv_heads, ranks, expected) -> None:
    for rank, (q, kv) in enumerate(expected):
        assert head_shares(heads, kv_heads, rank, ranks) == (
            Share(*q, heads),
            Share(*kv, kv_heads),
        )


@pytest.mark.parametrize(("heads", "kv_heads", "ranks"), [(9, 3, 4), (4, 2, 8)])
def test_heads_that_ranks_cannot_divide_are_refused(heads: int, kv_heads: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be divided among {ranks} ranks"):
        head_shares(heads, kv_heads, 0, ranks)
