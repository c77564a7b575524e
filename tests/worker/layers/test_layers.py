"""Norms, the activation, merged projections and heads against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from worker.distributed.share import Share
from worker.distributed.tensor_parallel import TensorParallel
from worker.layers.activation import silu_and_mul
from worker.layers.embedding import LMHead, TokenEmbedding
from worker.layers.linear import Linear, QKVLinear, RowParallelLinear
from worker.layers.norm import QKNorm, RMSNorm

from ..triton_interpreter import interpret_kernels


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def fill(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.normal_()


def hf_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    norm = LlamaRMSNorm(x.shape[-1], eps)
    norm.weight.data = weight
    return norm(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_rms_norm_is_computed_in_float32(dtype: torch.dtype, scale: float) -> None:
    norm = RMSNorm(64, 1e-5)
    fill(norm)
    norm.to(dtype)
    x = (torch.randn(5, 64) * scale).to(dtype)
    normed, residual = norm(x)
    assert normed.dtype == dtype
    assert residual is x
    # Ours rounds once, at the end; Hugging Face also before the weight.
    exact = hf_norm(x.float(), norm.weight.float(), 1e-5).to(dtype)
    torch.testing.assert_close(normed, exact)


def test_rms_norm_adds_to_the_residual_stream() -> None:
    norm = RMSNorm(16, 1e-6)
    fill(norm)
    x, stream = torch.randn(3, 16), torch.randn(3, 16)
    total = x + stream
    normed, residual = norm(x, stream)
    torch.testing.assert_close(residual, total)
    torch.testing.assert_close(normed, hf_norm(total, norm.weight, 1e-6))


def test_qk_norm_normalizes_each_head_with_its_own_weight() -> None:
    norm = QKNorm(4, 2, 16, 1e-6)
    fill(norm)
    heads = torch.randn(3, 8, 16)
    normed = norm(heads[:, :6])  # as the model calls it: a view of queries, keys and values
    torch.testing.assert_close(normed[:, :4], hf_norm(heads[:, :4], norm.q_weight, 1e-6))
    torch.testing.assert_close(normed[:, 4:], hf_norm(heads[:, 4:6], norm.k_weight, 1e-6))


def test_silu_and_mul() -> None:
    gate, up = torch.randn(3, 8), torch.randn(3, 8)
    activated = silu_and_mul(torch.cat((gate, up), dim=-1))
    torch.testing.assert_close(activated, gate * torch.sigmoid(gate) * up)
    assert activated.is_contiguous()


@pytest.mark.parametrize("bias", [False, True])
def test_a_merged_projection_equals_its_parts(bias: bool) -> None:
    merged = QKVLinear(8, Share.whole(4), Share.whole(2), head_dim=6, bias=bias)
    parts = {"q_proj": 24, "k_proj": 12, "v_proj": 12}
    slots = dict(merged.slots("attn"))
    assert len(slots) == (6 if bias else 3)
    singles = []
    for name, outputs in parts.items():
        single = Linear(8, outputs, bias)
        fill(single)
        for part, slot in single.slots(f"attn.{name}"):
            slots[part].fill(slot.target)
        singles.append(single)
    x = torch.randn(5, 8)
    expected = torch.cat([single(x) for single in singles], dim=-1)
    torch.testing.assert_close(merged(x), expected)


def test_few_tokens_of_ranks_are_summed_before_they_are_added() -> None:
    interpret_kernels()

    class Twins(TensorParallel):
        """Two ranks with the same inputs and weights."""

        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    alone = RowParallelLinear(Share.whole(8), 6)
    fill(alone)
    twin = RowParallelLinear(Share(0, 8, 16), 6, parallel=Twins(0, 2))
    twin.weight = alone.weight
    x, stream = torch.randn(3, 8), torch.randn(3, 6)
    for layer, factor in ((alone, 1), (twin, 2)):
        found = stream.clone()
        layer.skinny_add(found, x)
        torch.testing.assert_close(found, stream + factor * (x @ alone.weight.T))


@pytest.mark.parametrize("tokens", [1, 3])
def test_few_tokens_are_not_quantized_for_fp8_weights(tokens: int) -> None:
    interpret_kernels()
    layer = Linear(48, 16, bias=True)
    fill(layer)
    layer.quantize()
    assert layer.weight_scales is not None
    x = torch.randn(tokens, 48)
    weight = layer.weight.float() * layer.weight_scales[:, None]
    torch.testing.assert_close(layer.skinny(x), F.linear(x, weight, layer.bias))


def test_a_tied_head_multiplies_with_the_embedding() -> None:
    embedding = TokenEmbedding(20, 8).to(torch.bfloat16)
    fill(embedding)
    head = LMHead(embedding, tied=True)
    hidden = embedding(torch.tensor([3, 4]))
    logits = head(hidden)
    torch.testing.assert_close(logits, hidden @ embedding.weight.T)
    assert not dict(head.slots("lm_head"))
    assert dict(LMHead(embedding, tied=False).slots("lm_head"))["lm_head.weight"].shape == [20, 8]
