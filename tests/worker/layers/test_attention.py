"""The attention layer in its two forms: plain operations, and one fused kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worker.attention.base import AttentionBackend, AttentionSpec, forward_context
from worker.layers.attention import Attention
from worker.layers.norm import QKNorm
from worker.layers.rope import RotaryEmbedding
from worker.layers.rope_config import RopeConfig

from ..models.dense_attention import NO_BATCH
from ..triton_interpreter import interpret_kernels

HEADS, KV_HEADS, HEAD_DIM, SLOTS = 4, 2, 16, 9
SPEC = AttentionSpec(1, HEADS, KV_HEADS, HEAD_DIM, HEAD_DIM**-0.5)
OUT_SLOTS = torch.tensor([4, 0, 7])


class _Recording(AttentionBackend):
    """Keeps what it is asked; attends to nothing."""

    def __init__(self) -> None:
        caches = [[torch.zeros(SLOTS, KV_HEADS, HEAD_DIM) for _ in range(2)] for _ in "kv"]
        super().__init__(*caches)
        self.asked: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, AttentionSpec]] = []

    def attend(self, q, k, v, spec):
        self.asked.append((q, k, v, spec))
        return q


def make_attention(with_norm: bool) -> Attention:
    torch.manual_seed(0)
    norm = QKNorm(HEADS, KV_HEADS, HEAD_DIM, 1e-5) if with_norm else None
    for weight in norm.parameters() if norm is not None else ():
        weight.data.normal_()
    return Attention(SPEC, norm)


@pytest.mark.parametrize("with_norm", [False, True])
def test_both_forms_write_and_return_the_same(with_norm: bool) -> None:
    interpret_kernels()
    attention = make_attention(with_norm)
    qkv = torch.randn(3, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    rotation = RotaryEmbedding(RopeConfig(), HEAD_DIM, 20)(torch.tensor([5, 0, 19]))
    plain, fused = _Recording(), _Recording()
    with forward_context(plain, replace(NO_BATCH, out_slots=OUT_SLOTS)):
        expected = attention.write(qkv.clone(), rotation)
    with forward_context(fused, replace(NO_BATCH, out_slots=OUT_SLOTS)):
        heads = attention.write_fused(qkv, rotation)
    for each, wanted in zip(heads, expected, strict=True):
        torch.testing.assert_close(each, wanted)
    for cache, wanted in ((fused.k_cache, plain.k_cache), (fused.v_cache, plain.v_cache)):
        assert not cache[0].any()
        assert wanted[1][OUT_SLOTS].any()
        torch.testing.assert_close(cache[1], wanted[1])


def test_the_backend_of_the_step_attends_to_what_was_written() -> None:
    attention, backend = make_attention(with_norm=False), _Recording()
    qkv = torch.randn(3, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    rotation = RotaryEmbedding(RopeConfig(), HEAD_DIM, 20)(torch.tensor([5, 0, 19]))
    with forward_context(backend, replace(NO_BATCH, out_slots=OUT_SLOTS)):
        result = attention(qkv, rotation)
    ((q, k, v, spec),) = backend.asked
    assert spec is SPEC
    assert result is q
    assert q.shape == (3, HEADS, HEAD_DIM)
    torch.testing.assert_close(backend.k_cache[1][OUT_SLOTS], k)
    torch.testing.assert_close(backend.v_cache[1][OUT_SLOTS], v)
    torch.testing.assert_close(v.flatten(1), qkv[:, -KV_HEADS * HEAD_DIM :])
