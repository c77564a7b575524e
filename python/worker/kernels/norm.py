"""Residual add and RMSNorm in one pass over each row."""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .dependent_launch import gdc_launch_dependents, gdc_wait, launches_early

# Rows up to this size stay in registers between the sum of squares and the result.
_LARGEST_BLOCK = 16384


def add_rms_norm_reference(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `add_rms_norm` computes."""
    residual = x if residual is None else residual.add_(x)
    normed = F.rms_norm(residual.float(), weight.shape, weight.float(), eps)
    return normed.to(x.dtype), residual


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + residual, and its RMSNorm times `weight`, in float32 inside.

    x, residual: [tokens, size], contiguous; weight: [size]. Returns the norm, new, and the sum: it
    is `residual`, changed in place, or x if there is none.
    """
    tokens, size = x.shape
    normed = torch.empty_like(x)
    block = min(triton.next_power_of_2(size), _LARGEST_BLOCK)
    stream = x if residual is None else residual
    early = launches_early(x.device)
    _add_rms_norm[(tokens,)](
        x,
        stream,
        weight,
        normed,
        eps,
        SIZE=size,
        BLOCK=block,
        ADD=residual is not None,
        EARLY=early,
        num_warps=min(max(block // 256, 1), 16),
        launch_pdl=early,
    )
    return normed, stream


@triton.jit
def _add_rms_norm(
    x,
    stream,
    weight,
    normed,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * SIZE
    columns = tl.arange(0, BLOCK)
    # The first block stays in registers; a longer row reads the others again. Its weights are
    # asked for before the input is there, so that they arrive while it is computed.
    factors = tl.load(weight + columns, mask=columns < SIZE, other=0.0)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    first = _add(x + start, stream + start, columns, SIZE, ADD)
    squares = first * first
    for offset in range(BLOCK, SIZE, BLOCK):
        total = _add(x + start, stream + start, columns + offset, SIZE, ADD)
        squares += total * total
    scale = tl.rsqrt(tl.sum(squares, 0) / SIZE + eps)
    _store_normed(first * scale, factors, normed + start, columns, SIZE)
    for offset in range(BLOCK, SIZE, BLOCK):
        later = columns + offset
        total = tl.load(stream + start + later, mask=later < SIZE, other=0.0).to(tl.float32)
        factors = tl.load(weight + later, mask=later < SIZE, other=0.0)
        _store_normed(total * scale, factors, normed + start, later, SIZE)


@triton.jit
def _add(x, stream, columns, SIZE: tl.constexpr, ADD: tl.constexpr):
    """Read a block, add it to the stream, and return the sum as the stream rounds it."""
    mask = columns < SIZE
    total = tl.load(x + columns, mask=mask, other=0.0)
    if ADD:
        old = tl.load(stream + columns, mask=mask, other=0.0).to(tl.float32)
        total = (total.to(tl.float32) + old).to(stream.dtype.element_ty)
        tl.store(stream + columns, total, mask=mask)
    return total.to(tl.float32)


@triton.jit
def _store_normed(scaled, factors, normed, columns, SIZE: tl.constexpr):
    result = (scaled * factors.to(tl.float32)).to(normed.dtype.element_ty)
    tl.store(normed + columns, result, mask=columns < SIZE)
