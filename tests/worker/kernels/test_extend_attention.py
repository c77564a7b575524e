"""The extend kernel equals its reference, and its plan covers every query once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton

from worker.kernels.extend_attention import (
    ExtendTile,
    extend_attention,
    extend_attention_reference,
    plan_extend,
)

from .paged_scene import DEVICE, ELEMENT_TYPES, TOLERANCE, PagedScene, paged_scene

BLOCK = 16
TILE = ExtendTile(block_m=32, block_n=BLOCK, num_warps=4, num_stages=2)


def extend(scene: PagedScene, sequences: list[int] | None = None, **options) -> torch.Tensor:
    tokens, heads, head_dim = scene.q.shape
    chosen = np.arange(len(scene.seq_lens)) if sequences is None else np.array(sequences)
    tile_tokens = TILE.tokens(heads // scene.k.shape[1])
    plan = plan_extend(scene.host_seq_lens, scene.host_query_lens, chosen, tile_tokens)
    out = torch.zeros((tokens, heads, head_dim), dtype=scene.q.dtype, device=DEVICE)
    extend_attention(
        scene.q,
        scene.k,
        scene.v,
        scene.k_cache,
        scene.v_cache,
        out,
        plan=torch.from_numpy(plan).to(DEVICE),
        query_starts=scene.query_starts,
        rows=scene.rows,
        page_table=scene.page_table,
        seq_lens=scene.seq_lens,
        scale=head_dim**-0.5,
        tile=TILE,
        **options,
    )
    return out


def expected(scene: PagedScene, sequences: list[int] | None = None, **options) -> torch.Tensor:
    return extend_attention_reference(
        scene.q,
        scene.k,
        scene.v,
        scene.k_cache,
        scene.v_cache,
        query_starts=scene.query_starts,
        rows=scene.rows,
        page_table=scene.page_table,
        seq_lens=scene.seq_lens,
        sequences=range(len(scene.seq_lens)) if sequences is None else sequences,
        scale=scene.q.shape[2] ** -0.5,
        **options,
    )


# (tokens cached before, tokens of the chunk)
CHUNKS = {
    "one token": [(0, 1)],
    "one token after a prefix": [(BLOCK, 1)],
    "around a block": [(0, BLOCK - 1), (0, BLOCK), (0, BLOCK + 1)],
    "prefixes around a block": [(BLOCK - 1, 5), (BLOCK, 20), (BLOCK + 1, 17)],
    "a ragged mix": [(0, 45), (70, 3), (1, 33), (40, 40)],
}


def chunks(lengths: list[tuple[int, int]], **shape) -> PagedScene:
    return paged_scene([sum(pair) for pair in lengths], [new for _, new in lengths], **shape)


@pytest.mark.parametrize("lengths", CHUNKS)
def test_lengths(lengths):
    scene = chunks(CHUNKS[lengths])
    torch.testing.assert_close(extend(scene), expected(scene), **TOLERANCE)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (6, 2), (4, 1), (7, 1), (16, 2)])
def test_groups_of_heads(heads, kv_heads):
    scene = chunks([(5, 37), (0, 9)], heads=heads, kv_heads=kv_heads)
    torch.testing.assert_close(extend(scene), expected(scene), **TOLERANCE)


@pytest.mark.parametrize("head_dim", [8, 64, 80, 96, 128, 192, 256])
def test_head_sizes(head_dim):
    scene = chunks([(21, 18)], heads=2, kv_heads=1, head_dim=head_dim)
    torch.testing.assert_close(extend(scene), expected(scene), **TOLERANCE)


@pytest.mark.parametrize("window", [1, BLOCK - 3, BLOCK, 50])
def test_a_sliding_window(window):
    scene = chunks([(0, 45), (70, 30), (3, 2)])
    options = {"sliding_window": window}
    torch.testing.assert_close(extend(scene, **options), expected(scene, **options), **TOLERANCE)


def test_soft_cap_and_sinks():
    scene = chunks([(20, 21)])
    sinks = torch.tensor([-1.0, 0.0, 2.0, 9.0], device=DEVICE)
    for options in ({"logit_soft_cap": 0.7}, {"sinks": sinks}):
        out = extend(scene, **options)
        torch.testing.assert_close(out, expected(scene, **options), **TOLERANCE)
        assert not torch.allclose(out, expected(scene), atol=1e-3)


def test_sequences_that_are_not_in_the_plan_are_left_alone():
    scene = paged_scene([30, 40, 5, 12], [1, 25, 5, 12])
    out = extend(scene, [1, 3])
    assert not out[:1].any()
    assert not out[26:31].any()
    torch.testing.assert_close(out, expected(scene, [1, 3]), **TOLERANCE)


@pytest.mark.parametrize(("dtype", "cache_dtype"), ELEMENT_TYPES)
def test_element_types(dtype, cache_dtype):
    scene = chunks([(21, 33)], dtype=dtype, cache_dtype=cache_dtype)
    torch.testing.assert_close(extend(scene), expected(scene), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("seed", range(10))
def test_a_plan_holds_every_tile_once(seed):
    random = np.random.default_rng(seed)
    query_lens = np.append(random.integers(1, 500, random.integers(1, 40)), 450).astype(np.int32)
    seq_lens = query_lens + random.integers(0, 900, len(query_lens)).astype(np.int32)
    chosen = np.flatnonzero(random.integers(0, 2, len(query_lens)) | (query_lens > 400))
    plan = plan_extend(seq_lens, query_lens, chosen, 32).reshape(-1, 4)
    tiles = [tuple(tile) for tile in plan[:, :2].tolist()]
    assert sorted(tiles) == [(s, first) for s in chosen for first in range(0, query_lens[s], 32)]


def test_a_plan_starts_with_the_most_work_and_keeps_chunks_together():
    seq_lens, query_lens = np.array([64, 900, 7, 96]), np.array([64, 64, 7, 96])
    plan = plan_extend(seq_lens, query_lens, np.array([0, 1, 3]), 32).reshape(-1, 4)
    in_order = [(1, 32), (1, 0), (3, 64), (3, 32), (3, 0), (0, 32), (0, 0)]
    assert [tuple(tile) for tile in plan[:, :2].tolist()] == in_order


@pytest.mark.parametrize("head_dim", [64, 80, 128, 192, 256])
@pytest.mark.parametrize("itemsize", [1, 2])
def test_a_tile_fits_the_shared_memory_of_small_and_large_gpus(head_dim, itemsize):
    large = ExtendTile.choose(head_dim, itemsize, 227 << 10)
    small = ExtendTile.choose(head_dim, itemsize, 99 << 10)
    for tile, shared_memory in ((large, 227 << 10), (small, 99 << 10)):
        row_bytes = triton.next_power_of_2(head_dim) * itemsize
        buffers = tile.block_m + 2 * tile.num_stages * tile.block_n
        assert buffers * row_bytes <= shared_memory
    assert ExtendTile.choose(head_dim, itemsize, 1 << 30) == large
