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


def few_rows_product_reference(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x Wᵀ + b. weight: [outputs, inputs] float8_e4m3fn; scales: [outputs], of its rows."""
    product = x.float() @ weight.float().T * scales
    return (product if bias is None else product + bias.float()).to(x.dtype)
