"""The prefix kernel equals its reference: for any tokens, spans and shapes of heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.kernels.extend_attention import ExtendTile
from worker.kernels.prefix_attention import prefix_attention, prefix_attention_reference

from .paged_scene import DEVICE, ELEMENT_TYPES, TOLERANCE, PagedScene, paged_scene

BLOCK = 16
TILE = ExtendTile(block_m=32, block_n=BLOCK, num_warps=4, num_stages=2)
NEVER = -1e29  # the log of no sum at all, or lower
SURPLUS = [-1, -1, -1, -1, -1, -1]


def spans(scene: PagedScene, items: list[list[int]], kernel: bool, **options):
    """The partial results of `items`, as the kernel or its reference leaves them."""
    tokens, heads, head_dim = scene.q.shape
    partials = 3 * tokens
    outs = torch.full((partials, heads, head_dim), 7.0, device=DEVICE)
    lse = torch.full((partials, heads), 7.0, device=DEVICE)
    arguments = {
        "plan": torch.tensor(items, dtype=torch.int32, device=DEVICE).flatten(),
        "first_partials": 3 * torch.arange(tokens, dtype=torch.int32, device=DEVICE).flip(0),
        "rows": scene.rows,
        "page_table": scene.page_table,
        "positions": torch.tensor(
            np.repeat(scene.host_seq_lens, scene.host_query_lens) - 1, device=DEVICE
        ),
        "scale": head_dim**-0.5,
        **options,
    }
    inputs = (scene.q, scene.k_cache, scene.v_cache, outs, lse)
    if kernel:
        prefix_attention(*inputs, tile=TILE, **arguments)
    else:
        prefix_attention_reference(*inputs, **arguments)
    return outs, lse


def check(scene: PagedScene, items: list[list[int]], *, tolerance=TOLERANCE, **options) -> None:
    (outs, lse), (expected_outs, expected_lse) = (
        spans(scene, items, kernel, **options) for kernel in (True, False)
    )
    unseen = expected_lse.isneginf()
    assert (lse[unseen] < NEVER).all()
    torch.testing.assert_close(lse[~unseen], expected_lse[~unseen], **tolerance)
    torch.testing.assert_close(outs[~unseen], expected_outs[~unseen], **tolerance)
    assert outs[unseen].isfinite().all()


def decodes(seq_lens: list[int], **shape) -> PagedScene:
    return paged_scene(seq_lens, [1] * len(seq_lens), **shape)


@pytest.mark.parametrize(
    "span", [(0, 1), (0, BLOCK), (0, BLOCK + 1), (3, BLOCK + 2), (BLOCK - 1, 99)]
)
@pytest.mark.parametrize("tokens", [(0, 1), (1, 4), (0, 16)])
def test_spans_and_tokens(span, tokens):
    first, after = tokens
    scene = decodes([100] * 16)
    check(scene, [[2, *span, first, after - first, 0]])


def test_items_write_the_partial_results_they_are_told_to_and_surplus_ones_nothing():
    scene = decodes([100, 90, 80, 70])
    check(scene, [[3, 0, 20, 0, 4, 0], SURPLUS, [1, 20, 60, 1, 2, 2], [0, 20, 33, 3, 1, 1]])


def test_a_chunk_has_many_tokens():
    check(paged_scene([40, 45], [9, 13]), [[0, 0, 30, 0, 16, 0], [0, 0, 30, 16, 6, 0]])


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (6, 2), (4, 1), (7, 1), (16, 2)])
def test_groups_of_heads(heads, kv_heads):
    check(decodes([50] * 4, heads=heads, kv_heads=kv_heads), [[1, 0, 40, 0, 4, 0]])


@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 256])
def test_head_sizes(head_dim):
    check(decodes([30] * 3, heads=2, kv_heads=1, head_dim=head_dim), [[1, 0, 25, 0, 3, 0]])


@pytest.mark.parametrize("window", [1, BLOCK, 30, 100])
def test_a_sliding_window_ends_at_each_token(window):
    scene = decodes([41, 60, 80, 200])
    check(scene, [[0, 0, 40, 0, 4, 0], [0, 25, 40, 1, 3, 1]], sliding_window=window)


def test_a_soft_cap():
    check(decodes([50] * 4), [[1, 0, 40, 0, 4, 0]], logit_soft_cap=0.7)


@pytest.mark.parametrize(("dtype", "cache_dtype"), ELEMENT_TYPES)
def test_element_types(dtype, cache_dtype):
    scene = decodes([50] * 4, dtype=dtype, cache_dtype=cache_dtype)
    check(scene, [[1, 0, 40, 0, 4, 0]], tolerance={"atol": 0.02, "rtol": 0.02})
