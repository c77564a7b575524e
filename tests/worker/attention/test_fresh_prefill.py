"""Attention of whole prompts: chunks are padded to few lengths, and nobody sees the padding.

With a GPU, cuDNN computes it, in bfloat16; else torch's own attention in float32.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.attention.base import AttentionSpec
from worker.attention.fresh_prefill import (
    MIN_TOKENS,
    Group,
    attend_group,
    group_chunks,
    padded_length,
    usable,
)
from worker.attention.torch_native import attend_reference

ON_GPU = torch.cuda.is_available()
TOLERANCE = {"rtol": 2e-2, "atol": 2e-2} if ON_GPU else {"rtol": 1e-4, "atol": 1e-5}


def random_heads(tokens):
    """Four query heads and two of keys and values each, as parts of one tensor."""
    torch.manual_seed(0)
    qkv = torch.randn(tokens, 4 + 2 * 2, 64)
    if ON_GPU:
        qkv = qkv.to("cuda", torch.bfloat16)
    return qkv.split((4, 2, 2), dim=1)


def expected(q, k, v, lens, scale):
    """Each chunk by itself, with keys and values repeated for their group of queries."""
    group = q.shape[1] // k.shape[1]
    parts = []
    for chunk in zip(q.split(lens), k.split(lens), v.split(lens), strict=True):
        heads = [chunk[0], *(x.repeat_interleave(group, 1) for x in chunk[1:])]
        heads = [x.transpose(0, 1)[None].float() for x in heads]
        out, _ = attend_reference(*heads, scale=scale, causal=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts).to(q.dtype)


def computed(q, k, v, groups, scale):
    out = torch.full_like(q, torch.nan)
    for group in groups:
        attend_group(q, k, v, out, group, scale)
    return out


@pytest.mark.parametrize(
    "lens", [[2], [17], [16], [33, 2, 40], [5, 130], [130, 5]], ids=lambda lens: str(lens)
)
def test_each_chunk_sees_itself_alone(lens):
    q, k, v = random_heads(sum(lens))
    starts = np.cumsum(lens) - lens
    groups = [Group(int(start), n, 1) for start, n in zip(starts, lens, strict=True)]
    out = computed(q, k, v, groups, scale=0.3)
    torch.testing.assert_close(out, expected(q, k, v, lens, 0.3), **TOLERANCE)


def test_a_group_is_one_batch_and_touches_nothing_else():
    q, k, v = random_heads(5 + 3 * 16 + 2)
    out = computed(q, k, v, [Group(5, 16, 3)], scale=0.3)
    own = slice(5, 53)
    wanted = expected(q[own], k[own], v[own], [16] * 3, 0.3)
    torch.testing.assert_close(out[own], wanted, **TOLERANCE)
    assert out[:5].isnan().all()
    assert out[53:].isnan().all()


def test_neighbours_of_one_length_are_grouped_and_small_groups_left_out():
    lengths = np.array([2048, 2048, 1024, 4097, 4097, 512, 4096, 4096, 1024, 1024, 1024, 1024])
    is_fresh = np.ones(12, dtype=bool)
    is_fresh[6] = False
    starts = 3 + np.cumsum(lengths) - lengths
    groups, grouped = group_chunks(starts, lengths, is_fresh)
    assert groups == [
        Group(3, 2048, 2),  # together they are enough
        Group(5123, 4097, 1),  # padded, so each by itself
        Group(9220, 4097, 1),
        Group(17925, 4096, 1),  # its neighbour has a prefix
        Group(22021, 1024, 4),
    ]
    assert grouped.tolist() == [True] * 2 + [False] + [True] * 2 + [False, False] + [True] * 5


def test_there_are_few_lengths_and_little_padding():
    lengths = range(MIN_TOKENS, 8 * MIN_TOKENS + 1)
    padded = [padded_length(tokens) for tokens in lengths]
    assert len(set(padded)) == 3 * 8 + 1
    assert all(n <= p < n * 1.125 for n, p in zip(lengths, padded, strict=True))
    assert padded_length(4096) == 4096


def test_a_cpu_has_no_such_kernel():
    spec = AttentionSpec(0, 4, 2, 64, 1.0)
    assert not usable(spec, torch.bfloat16, torch.device("cpu"))
