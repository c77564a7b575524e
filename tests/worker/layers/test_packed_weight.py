"""A packed layer computes what the plain one does."""

import pytest
import torch
import torch.nn.functional as F

from worker.layers.embedding import LMHead, TokenEmbedding
from worker.layers.linear import Linear
from worker.layers.packed_weight import can_pack

DTYPES = [torch.float32, torch.bfloat16]


def filled(layer, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    layer = layer.to(dtype)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (48, 7), (1, 1)])
@torch.no_grad()
def test_a_packed_linear_layer_gives_the_same(dtype, bias, inputs, outputs):
    layer = filled(Linear(inputs, outputs, bias), dtype)
    weight = layer.weight.clone()
    layer.pack()
    for tokens in (1, 2, 33):
        x = torch.randn(tokens, inputs).to(dtype)
        torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))
    if can_pack(weight):
        assert layer.weight.is_meta, "the plain weight's memory is free again"


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_packed_head_gives_the_same_and_leaves_a_tied_embedding_alone(tied):
    embedding = filled(TokenEmbedding(50, 32), torch.float32)
    head = filled(LMHead(embedding, tied), torch.float32)
    rows, hidden, weight = embedding.weight.clone(), torch.randn(3, 32), head.weight.clone()
    head.pack()
    torch.testing.assert_close(head(hidden), F.linear(hidden, weight))
    assert torch.equal(embedding(torch.arange(50)), rows if not tied else weight)


def test_float16_is_left_plain():
    assert not can_pack(torch.zeros(4, 4, dtype=torch.float16))
