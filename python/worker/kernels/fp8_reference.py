"""What the FP8 kernels compute, in PyTorch; runs anywhere, also where Triton is not installed."""

from __future__ import annotations

import torch

LARGEST = torch.finfo(torch.float8_e4m3fn).max
# A row of zeros is divided by this.
SMALLEST_SCALE = 1e-12


def quantize_rows_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x ≈ quantized · scales. x: [rows, size] -> [rows, size] float8_e4m3fn, [rows, 1] float32."""
    wide = x.float()
    scales = (wide.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp_(min=SMALLEST_SCALE)
    return wide.div(scales).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales


def scale_product_reference(
    product: torch.Tensor,
    row_scales: torch.Tensor,
    column_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """product · row_scales · column_scales + bias: [rows, columns], new, in product's dtype."""
    scaled = product.float() * row_scales * column_scales
    return (scaled if bias is None else scaled + bias.float()).to(product.dtype)
