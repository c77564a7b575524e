"""FP8 matrix products: activations quantized row by row, and the product of a few rows.

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
# Rows that `few_rows_product` takes: one side of the smallest tile of a tensor core.
FEW_ROWS = 16
_OUTPUTS, _INPUTS = 16, 512


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


def few_rows_product(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x Wᵀ + b for at most FEW_ROWS rows; x stays as exact as it is.

    Reading W takes the time, so it is read as FP8 and widened in registers.

    x: [rows, inputs], contiguous; weight: [outputs, inputs] float8_e4m3fn, contiguous;
    scales: [outputs] float32, of the weight's rows; bias: [outputs]. Returns [rows, outputs].
    """
    rows, inputs = x.shape
    assert rows <= FEW_ROWS, rows
    outputs = len(weight)
    product = x.new_empty(rows, outputs)
    _few_rows_product[(triton.cdiv(outputs, _OUTPUTS),)](
        x,
        weight,
        scales,
        bias,
        product,
        rows,
        outputs,
        SIZE=inputs,
        ROWS=FEW_ROWS,
        OUTPUTS=_OUTPUTS,
        INPUTS=_INPUTS,
        num_warps=4,
        num_stages=3,
    )
    return product


@triton.jit(do_not_specialize=["rows"])
def _few_rows_product(
    x,
    weight,
    scales,
    bias,
    product,
    rows,
    outputs,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    row = tl.arange(0, ROWS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for start in range(0, SIZE, INPUTS):
        column = start + tl.arange(0, INPUTS)
        wide = tl.load(
            weight + output.to(tl.int64)[:, None] * SIZE + column[None, :],
            mask=(output < outputs)[:, None] & (column < SIZE)[None, :],
            other=0.0,
        ).to(x.dtype.element_ty)
        part = tl.load(
            x + row[None, :] * SIZE + column[:, None],
            mask=(row < rows)[None, :] & (column < SIZE)[:, None],
            other=0.0,
        )
        total = tl.dot(wide, part, total)
    total *= tl.load(scales + output, mask=output < outputs, other=0.0)[:, None]
    if bias is not None:
        total += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[:, None]
    tl.store(
        product + row[None, :] * outputs + output[:, None],
        total.to(product.dtype.element_ty),
        mask=(row < rows)[None, :] & (output < outputs)[:, None],
    )
