"""Attention of whole prompts: chunks are padded to few lengths, and nobody sees the padding."""

from __future__ import annotations

import pytest
import torch

from worker.attention.base import AttentionSpec
from worker.attention.fresh_prefill import MIN_TOKENS, fresh_prefill, padded_length, usable
from worker.attention.torch_native import attend_reference


def expected(q, k, v, lens, scale):
    """Each chunk by itself, with keys and values repeated for their group of queries."""
    group = q.shape[1] // k.shape[1]
    parts = []
    for chunk in zip(q.split(lens), k.split(lens), v.split(lens), strict=True):
        heads = [chunk[0], *(x.repeat_interleave(group, 1) for x in chunk[1:])]
        heads = [x.transpose(0, 1)[None] for x in heads]
        out, _ = attend_reference(*heads, scale=scale, causal=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize(
    "lens", [[1], [17], [16], [33, 1, 40], [5, 130], [130, 5]], ids=lambda lens: str(lens)
)
def test_each_chunk_sees_itself_alone(lens):
    torch.manual_seed(0)
    tokens = sum(lens)
    qkv = torch.randn(tokens, 4 + 2 * 2, 8)
    q, k, v = qkv.split((4, 2, 2), dim=1)
    out = fresh_prefill(q.contiguous(), k, v, lens, scale=0.3)
    torch.testing.assert_close(out, expected(q, k, v, lens, 0.3), rtol=1e-4, atol=1e-5)


def test_there_are_few_lengths_and_little_padding():
    lengths = range(MIN_TOKENS, 8 * MIN_TOKENS + 1)
    padded = [padded_length(tokens) for tokens in lengths]
    assert len(set(padded)) == 3 * 8 + 1
    assert all(n <= p < n * 1.125 for n, p in zip(lengths, padded, strict=True))
    assert padded_length(4096) == 4096


def test_a_cpu_has_no_such_kernel():
    spec = AttentionSpec(0, 4, 2, 64, 1.0)
    assert not usable(spec, torch.bfloat16, torch.device("cpu"))
