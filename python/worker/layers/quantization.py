"""FP8 weights: quantized when they are loaded, with a scale for each output.

Activations are quantized as they come, with a scale for each token.
"""

from __future__ import annotations

from functools import cache

import torch

from ..kernels.fp8_reference import quantize_rows_reference, scale_product_reference

# Sizes that torch's scaled matrix product takes are multiples of this.
_ALIGNMENT = 16
# Up to so many tokens, cuBLAS's product with one scale and a pass over the result for all others
# beats the kernel that takes them all (H200, the shapes of Llama 3.1 8B).
_FEW_TOKENS = 128


def can_quantize(weight: torch.Tensor) -> bool:
    """Whether a product with `weight` [outputs, inputs] can be computed in FP8."""
    return all(size % _ALIGNMENT == 0 for size in weight.shape)


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`weight` [outputs, inputs] as float8_e4m3fn, and the scales [outputs] float32 of its rows."""
    quantized, scales = quantize_rows_reference(weight)
    return quantized, scales.view(-1)


def fp8_linear(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """y = x Wᵀ + b, with `weight` and `scales` from `quantize`.

    x: [tokens, inputs]; returns [tokens, outputs] in x's dtype. On a CPU the same numbers are
    multiplied in float32, which is slow.
    """
    if not x.is_cuda:
        quantized, row_scales = quantize_rows_reference(x)
        product = quantized.float() @ weight.float().T
        return scale_product_reference(product, row_scales, scales, bias).to(x.dtype)
    from ..kernels.fp8 import quantize_rows, scale_product

    quantized, row_scales = quantize_rows(x)
    if len(x) > _FEW_TOKENS:
        return _scaled_mm(quantized, weight, row_scales, scales[None, :], bias, x.dtype)
    one = _one(x.device)
    product = _scaled_mm(quantized, weight, one, one, None, x.dtype)
    scale_product(product, row_scales, scales, bias)
    return product


def _scaled_mm(
    x: torch.Tensor,
    weight: torch.Tensor,
    row_scales: torch.Tensor,
    column_scales: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    return torch.ops.aten._scaled_mm(
        x,
        weight.t(),
        scale_a=row_scales,
        scale_b=column_scales,
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )


@cache
def _one(device: torch.device) -> torch.Tensor:
    return torch.ones((), dtype=torch.float32, device=device)
