"""Linear layers with FP8 weights compute the product of the rounded numbers."""

import pytest
import torch

from worker.layers.linear import Linear

FP8 = torch.float8_e4m3fn


def linear(inputs: int, outputs: int, bias: bool = False) -> Linear:
    torch.manual_seed(0)
    layer = Linear(inputs, outputs, bias)
    for parameter in layer.parameters():
        parameter.data.normal_()
    return layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [5, 300])
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        pytest.param(
            "cuda",
            torch.bfloat16,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
        ),
    ],
)
def test_the_product_is_that_of_rounded_weights_and_activations(device, dtype, tokens, bias):
    layer = linear(64, 48, bias).to(device, dtype)
    exact = linear(64, 48, bias)
    x = torch.randn(tokens, 64).to(device, dtype)
    layer.quantize()
    found, wanted = layer(x), exact(x.float().cpu())
    assert found.dtype == dtype
    error = (found.float().cpu() - wanted).norm() / wanted.norm()
    assert 0.01 < error < 0.06


def test_numbers_that_fp8_has_are_multiplied_exactly():
    layer = linear(16, 32)
    layer.weight.data.copy_(torch.randint(-7, 8, (32, 16)))
    layer.weight.data[:, 0] = 448.0
    x = torch.randint(-7, 8, (3, 16)).float()
    x[:, 1] = -448.0
    wanted = layer(x)
    layer.quantize()
    assert torch.equal(layer(x), wanted)


def test_scales_belong_to_outputs():
    layer = linear(16, 32)
    layer.weight.data.mul_(10.0 ** torch.arange(-8, 8, 0.5)[:, None])
    x = torch.randn(4, 16)
    wanted = layer(x)
    layer.quantize()
    assert layer.weight.dtype == FP8
    torch.testing.assert_close(
        layer(x) / wanted.abs().amax(0), wanted / wanted.abs().amax(0), atol=0.15, rtol=0
    )


def test_sizes_that_cannot_be_multiplied_in_fp8_stay_as_they_are():
    layer = linear(24, 32)
    x = torch.randn(2, 24)
    wanted = layer(x)
    layer.quantize()
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer(x), wanted)
