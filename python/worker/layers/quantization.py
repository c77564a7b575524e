"""FP8 weights: quantized when they are loaded, with a scale for each output.

Activations are quantized as they come, with a scale for each token, but for batches so small that
reading the weights is all that takes time.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.fp8_reference import few_rows_product_reference, quantize_rows_reference

# Sizes that torch's scaled matrix product takes are multiples of this.
_ALIGNMENT = 16


def can_quantize(weight: torch.Tensor) -> bool:
    """Whether a product with `weight` [outputs, inputs] can be computed in FP8."""
    return all(size % _ALIGNMENT == 0 for size in weight.shape)


def quantize(weight: torch.Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """`weight` [outputs, inputs] as float8_e4m3fn, and the scales [outputs] float32 of its rows."""
    quantized, scales = quantize_rows_reference(weight)
    return (
        nn.Parameter(quantized, requires_grad=False),
        nn.Parameter(scales.view(-1), requires_grad=False),
    )


def fp8_linear(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """y = x Wᵀ + b, with `weight` and `scales` from `quantize`.

    x: [tokens, inputs]; returns [tokens, outputs] in x's dtype. On a CPU the same numbers are
    multiplied in float32, which is slow.
    """
    if not x.is_cuda:
        quantized, row_scales = quantize_rows_reference(x)
        rounded = quantized.float().mul_(row_scales)
        return few_rows_product_reference(rounded, weight, scales, bias).to(x.dtype)
    from ..kernels.fp8 import FEW_ROWS, few_rows_product, quantize_rows

    if len(x) <= FEW_ROWS:
        return few_rows_product(x, weight, scales, bias)
    quantized, row_scales = quantize_rows(x)
    return torch.ops.aten._scaled_mm(
        quantized,
        weight.t(),
        scale_a=row_scales,
        scale_b=scales[None, :],
        bias=bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
