"""What stands before and after an FP8 matrix product: quantization of rows, and their scales.

Their references stand in fp8_reference.
"""
# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .fp8_reference import LARGEST, SMALLEST_SCALE

_BLOCK = 4096
_COLUMNS = 1024


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale each row to the range of e4m3, so that x ≈ quantized · scales.

    x: [rows, size], rows contiguous. Returns [rows, size] float8_e4m3fn and [rows, 1] float32.
    """
    rows, size = x.shape
    quantized = torch.empty(rows, size, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    if rows:
        _quantize_rows[(rows,)](
            x,
            quantized,
            scales,
            x.stride(0),
            SIZE=size,
            LARGEST=LARGEST,
            SMALLEST_SCALE=SMALLEST_SCALE,
            BLOCK=min(_BLOCK, triton.next_power_of_2(size)),
            num_warps=8,
        )
    return quantized, scales


@triton.jit
def _quantize_rows(
    x,
    quantized,
    scales,
    stride,
    SIZE: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, SIZE, BLOCK):
        value = tl.load(x + row * stride + start + columns, mask=start + columns < SIZE, other=0.0)
        largest = tl.maximum(largest, tl.abs(value.to(tl.float32)))
    scale = tl.maximum(tl.max(largest, 0) / LARGEST, SMALLEST_SCALE)
    tl.store(scales + row, scale)
    for start in range(0, SIZE, BLOCK):  # the row is in the cache by now
        inside = start + columns < SIZE
        value = tl.load(x + row * stride + start + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = tl.clamp(value / scale, -LARGEST, LARGEST).to(quantized.dtype.element_ty)
        tl.store(quantized + row * SIZE + start + columns, rounded, mask=inside)


def scale_product(
    product: torch.Tensor,
    row_scales: torch.Tensor,
    column_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """product · row_scales · column_scales + bias, in place.

    product: [rows, columns], contiguous; row_scales: [rows, 1] and column_scales: [columns],
    float32; bias: [columns].
    """
    rows, columns = product.shape
    _scale_product[(rows, triton.cdiv(columns, _COLUMNS))](
        product, row_scales, column_scales, bias, COLUMNS=columns, BLOCK=_COLUMNS, num_warps=4
    )


@triton.jit
def _scale_product(
    product, row_scales, column_scales, bias, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    place = product + row * COLUMNS + column
    scale = tl.load(column_scales + column, mask=inside, other=0.0) * tl.load(row_scales + row)
    value = tl.load(place, mask=inside, other=0.0).to(tl.float32) * scale
    if bias is not None:
        value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, value.to(product.dtype.element_ty), mask=inside)
