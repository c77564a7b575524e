"""The decode kernel equals its reference, and its plan covers every key once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton

from worker.kernels.decode_attention import (
    WORDS_PER_ITEM,
    DecodeTile,
    DecodeWorkspace,
    decode_attention,
    decode_attention_reference,
    max_items,
    max_partials,
    plan_decode,
)

from .paged_scene import DEVICE, ELEMENT_TYPES, TOLERANCE, PagedScene, paged_scene

BLOCK = 16
TILE = DecodeTile(block_n=BLOCK, num_warps=4, num_stages=2)


def decode(scene: PagedScene, target: int = 1, padded: int | None = None, **options):
    sequences, heads, head_dim = scene.q.shape
    kv_heads = scene.k_cache.shape[1]
    real = scene.host_seq_lens[: sequences if padded is None else padded]
    plan = torch.from_numpy(plan_decode(real, sequences, target)).to(DEVICE)
    workspace = DecodeWorkspace.allocate(target, heads, kv_heads, head_dim, DEVICE)
    out = torch.full((sequences, heads, head_dim), torch.nan, dtype=scene.q.dtype, device=DEVICE)
    for _ in range(2):  # the second launch finds the workspace as the first one left it
        decode_attention(
            scene.q,
            scene.k_cache,
            scene.v_cache,
            out,
            plan=plan,
            rows=scene.rows,
            page_table=scene.page_table,
            seq_lens=scene.seq_lens,
            workspace=workspace,
            scale=head_dim**-0.5,
            tile=TILE,
            **options,
        )
    return out


def expected(scene: PagedScene, **options):
    return decode_attention_reference(
        scene.q,
        scene.k_cache,
        scene.v_cache,
        rows=scene.rows,
        page_table=scene.page_table,
        seq_lens=scene.seq_lens,
        scale=scene.q.shape[2] ** -0.5,
        **options,
    )


def decodes(seq_lens: list[int], **shape) -> PagedScene:
    return paged_scene(seq_lens, [1] * len(seq_lens), **shape)


LENGTHS = {
    "one token": [1],
    "around a block": [BLOCK - 1, BLOCK, BLOCK + 1],
    "several blocks": [2 * BLOCK, 70],
    "a ragged mix": [3, 200, 64, 1, 129],
}


@pytest.mark.parametrize("target", [1, 6])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_lengths(lengths, target):
    scene = decodes(LENGTHS[lengths])
    torch.testing.assert_close(decode(scene, target), expected(scene), **TOLERANCE)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (6, 2), (4, 1), (7, 1), (16, 2)])
def test_groups_of_heads(heads, kv_heads):
    scene = decodes([5, 130], heads=heads, kv_heads=kv_heads)
    torch.testing.assert_close(decode(scene, 3), expected(scene), **TOLERANCE)


@pytest.mark.parametrize("head_dim", [8, 64, 80, 96, 128, 192, 256])
def test_head_sizes(head_dim):
    scene = decodes([21, 70], heads=2, kv_heads=1, head_dim=head_dim)
    torch.testing.assert_close(decode(scene, 2), expected(scene), **TOLERANCE)


@pytest.mark.parametrize("target", [1, 5])
@pytest.mark.parametrize("window", [1, BLOCK - 3, BLOCK, 100])
def test_a_sliding_window(window, target):
    scene = decodes([4, 200, 33])
    options = {"sliding_window": window}
    out = decode(scene, target, **options)
    torch.testing.assert_close(out, expected(scene, **options), **TOLERANCE)


@pytest.mark.parametrize("target", [1, 4])
def test_soft_cap_and_sinks(target):
    scene = decodes([9, 150])
    sinks = torch.tensor([-1.0, 0.0, 2.0, 9.0], device=DEVICE)
    for options in ({"logit_soft_cap": 0.7}, {"sinks": sinks}):
        out = decode(scene, target, **options)
        torch.testing.assert_close(out, expected(scene, **options), **TOLERANCE)
        assert not torch.allclose(out, expected(scene), atol=1e-3)


@pytest.mark.parametrize("length", [0, 1])
def test_padding_rows_harm_nothing(length):
    scene = decodes([40, 7, 150, *[max(length, 1)] * 3])
    scene.seq_lens[3:] = length
    out = decode(scene, 4, padded=3)
    torch.testing.assert_close(out, expected(scene), **TOLERANCE)


@pytest.mark.parametrize(("dtype", "cache_dtype"), ELEMENT_TYPES)
def test_element_types(dtype, cache_dtype):
    scene = decodes([21, 70], dtype=dtype, cache_dtype=cache_dtype)
    torch.testing.assert_close(decode(scene, 2), expected(scene), atol=0.02, rtol=0.02)


def items_of(plan: np.ndarray) -> np.ndarray:
    items = plan.reshape(-1, WORDS_PER_ITEM)
    return items[items[:, 0] >= 0]


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_names_every_part_once_and_is_balanced(seed):
    random = np.random.default_rng(seed)
    sequences, target = random.integers(1, 300), int(random.integers(1, 70))
    seq_lens = np.exp(random.uniform(0, 9, sequences)).astype(np.int32) + 1
    padded = int(sequences + random.integers(0, 5))
    plan = plan_decode(seq_lens, padded, target)
    assert len(plan) == max_items(padded, target) * WORDS_PER_ITEM
    items = items_of(plan)
    parts = {(s, p) for s, p, *_ in items.tolist()}
    counts = {s: n for s, _, n, *_ in items.tolist()}
    assert parts == {(s, p) for s in range(padded) for p in range(counts[s])}
    assert len(items) == len(parts)
    split = [(first, n) for s, p, n, first, *_ in items.tolist() if n > 1 and p == 0]
    taken = [first + p for first, n in split for p in range(n)]
    assert sorted(taken) == list(range(len(taken)))
    assert len(taken) <= max_partials(target)
    lengths = np.array([seq_lens[s] / counts[s] if s < sequences else 1 for s in items[:, 0]])
    worth_cutting = np.sqrt(5 * seq_lens.max()) + 64
    assert lengths.max() <= max((seq_lens + 63).sum() / target + 64, worth_cutting, 128)
    assert (lengths[:-1] >= lengths[1:] - 64 - lengths.max() / 8).all()


def test_sequences_of_similar_length_keep_their_order():
    items = items_of(plan_decode(np.array([1000, 1010, 990, 5000, 1005], np.int32), 5, 1))
    assert items[:, 0].tolist() == [3, 0, 1, 2, 4]


@pytest.mark.parametrize(
    ("length", "parts"), [(128, 1), (192, 3), (1024, 16), (2048, 16), (4096, 32), (65536, 32)]
)
def test_a_single_sequence_is_cut_while_that_saves_more_than_merging_costs(length, parts):
    items = items_of(plan_decode(np.array([length], np.int32), 1, 32))
    assert items[:, :3].tolist() == [[0, part, parts] for part in range(parts)]


@pytest.mark.parametrize("head_dim", [64, 80, 128, 192, 256])
@pytest.mark.parametrize("itemsize", [1, 2])
def test_a_tile_fits_the_shared_memory_of_small_and_large_gpus(head_dim, itemsize):
    large = DecodeTile.choose(head_dim, itemsize, 227 << 10)
    small = DecodeTile.choose(head_dim, itemsize, 99 << 10)
    for tile, shared_memory in ((large, 227 << 10), (small, 99 << 10)):
        row_bytes = triton.next_power_of_2(head_dim) * itemsize
        buffers = 2 * (tile.num_stages - 1) * tile.block_n
        assert buffers * row_bytes <= shared_memory
    assert DecodeTile.choose(head_dim, itemsize, 1 << 30) == large


@pytest.mark.parametrize(("programs_each", "block_n"), [(0, 64), (3, 64), (3.1, 32), (9, 32)])
def test_a_tile_is_halved_where_not_all_programs_run_at_once(programs_each, block_n):
    # Of 227 KiB, three programs with 64 keys a tile take their share at once.
    assert DecodeTile.choose(128, 2, 227 << 10, programs_each).block_n == block_n
