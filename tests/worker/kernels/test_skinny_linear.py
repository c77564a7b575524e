"""The product of a few tokens, and all that it takes in, equals its reference."""

import pytest
import torch

from worker.kernels import skinny_linear as kernel

SHAPES = [
    (1, 72, 40), (1, 1024, 8), (1, 1500, 9), (1, 4097, 5),
    (2, 16, 8), (3, 1100, 9), (5, 300, 33), (8, 1024, 16), (16, 130, 17), (20, 64, 16),
]  # fmt: skip


def scene(device, tokens, inputs, outputs, dtype=torch.float16, *, gated=False):
    """x [tokens, inputs], a part of wider rows, and weight."""
    torch.manual_seed(tokens)
    x = torch.randn(tokens, inputs + 8, dtype=dtype, device=device)[:, :inputs]
    weight = torch.randn(outputs * (2 if gated else 1), inputs, dtype=dtype, device=device)
    return x, weight / inputs**0.5


def check(x, weight, **options) -> None:
    expected = kernel.skinny_linear_reference(x, weight, **options)
    found = kernel.skinny_linear(x, weight, **options)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("gated", [False, True])
def test_equals_the_reference(device, tokens, inputs, outputs, gated) -> None:
    check(*scene(device, tokens, inputs, outputs, gated=gated), gated=gated)


@pytest.mark.parametrize(("inputs", "outputs"), [shape[1:] for shape in SHAPES if shape[0] == 1])
@pytest.mark.parametrize("gated", [False, True])
def test_one_token_is_normalized(device, inputs, outputs, gated) -> None:
    x, weight = scene(device, 1, inputs, outputs, gated=gated)
    norm = torch.randn(inputs, device=device).to(x.dtype)
    check(x, weight, norm_weight=norm, eps=1e-2, gated=gated)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_result_is_added_in_place(device, tokens, inputs, outputs, with_bias) -> None:
    x, weight = scene(device, tokens, inputs, outputs)
    bias = torch.randn(outputs, device=device).to(x.dtype) if with_bias else None
    stream = torch.randn(tokens, outputs, device=device).to(x.dtype)
    expected = kernel.skinny_linear_reference(x, weight, bias=bias, add_to=stream)
    assert kernel.skinny_linear(x, weight, bias=bias, add_to=stream) is stream
    torch.testing.assert_close(stream, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("inputs", [96, 1500])
def test_fp8_weights_have_a_scale_for_each_output(device, tokens, inputs) -> None:
    x, weight = scene(device, tokens, inputs, 20, gated=True)
    scales = torch.rand(40, device=device) + 0.5
    bias = torch.randn(40, device=device).to(x.dtype)
    check(x, weight.to(torch.float8_e4m3fn), scales=scales, bias=bias, gated=True)


def test_bfloat16(device) -> None:  # of one token: the interpreter has no bfloat16 tl.dot
    x, weight = scene(device, 1, 200, 24, torch.bfloat16)
    norm = torch.randn(200, device=device).to(x.dtype)
    expected = kernel.skinny_linear_reference(x, weight, norm_weight=norm, eps=1e-5)
    found = kernel.skinny_linear(x, weight, norm_weight=norm, eps=1e-5)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_a_token_does_not_depend_on_the_others(device) -> None:
    x, weight = scene(device, 8, 300, 33)
    together = kernel.skinny_linear(x, weight)
    some = kernel.skinny_linear(x[3:6], weight)
    assert torch.equal(some, together[3:6])
