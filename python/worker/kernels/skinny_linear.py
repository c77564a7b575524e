"""Linear layers of a few tokens, at the speed of memory.

A decode step of a few requests is bound by reading weights. Here each program reads some rows of a
weight, once and in a stream, and does what stands around the product as well: RMSNorm of the input,
the gate of a feed-forward network, the sum with the residual stream. One token is multiplied as
numbers are read; more of them, up to 16, on tensor cores, whose smallest tile they do not fill.
"""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .dependent_launch import gdc_launch_dependents, gdc_wait, launches_early


@dataclass(frozen=True)
class Tile:
    """What a program reads at once of the weight; `rows` of gate and up together, if gated."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int

    @classmethod
    def choose(cls, tokens: int, inputs: int, itemsize: int) -> Tile:
        """What was fastest on an H200 with the shapes of Llama 3.1 8B and Qwen3 0.6B.

        `itemsize`: bytes of a weight's number.
        """
        if tokens > 1:
            return cls(16, 512, num_warps=2, num_stages=4)
        rows, widest = (8, 1024) if itemsize == 1 else (4, 2048)
        columns = min(widest, max(256, 1 << (inputs - 1).bit_length()))
        return cls(rows, columns, num_warps=columns // 256, num_stages=1)


def skinny_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    gated: bool = False,
    add_to: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """y = norm(x) Wᵀ · scales + b, added up in float32.

    x: [tokens, inputs], the last axis contiguous, a few tokens
    weight: [outputs, inputs], contiguous, in x's dtype or an 8-bit float; bias: [outputs]
    norm_weight: [inputs], of an RMSNorm of x; for one token only. None: x is taken as it is
    scales: [outputs] float32
    gated: the result is silu(y's first half) · second half
    add_to: [tokens, outputs], contiguous: the result is added to it, in place
    tile: `Tile.choose` if None
    Returns [tokens, outputs], or half of them if gated, in x's dtype; `add_to` if it is given.
    """
    tokens, inputs = x.shape
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    assert norm_weight is None or tokens == 1
    tile = tile or Tile.choose(tokens, inputs, weight.element_size())
    block_n = tile.rows // 2 if gated else tile.rows
    out = x.new_empty(tokens, outputs) if add_to is None else add_to
    early = launches_early(x.device)
    _skinny_linear[(triton.cdiv(outputs, block_n),)](
        x,
        weight,
        norm_weight,
        scales,
        bias,
        out,
        tokens,
        x.stride(0),
        eps,
        INPUTS=inputs,
        OUTPUTS=outputs,
        GATED=gated,
        ADD=add_to is not None,
        BLOCK_T=1 if tokens == 1 else max(16, triton.next_power_of_2(tokens)),
        BLOCK_N=block_n,
        BLOCK_K=tile.columns,
        STAGES=tile.num_stages,
        EARLY=early,
        num_warps=tile.num_warps,
        launch_pdl=early,
    )
    return out


def skinny_linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    gated: bool = False,
    add_to: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `skinny_linear` computes; `add_to` stays as it is."""
    wide = x.float()
    if norm_weight is not None:
        wide = F.rms_norm(wide, wide.shape[1:], norm_weight.float(), eps)
    result = wide @ weight.float().T
    if scales is not None:
        result *= scales
    if bias is not None:
        result += bias.float()
    if gated:
        gate, up = result.chunk(2, dim=1)
        result = F.silu(gate) * up
    return (result if add_to is None else result + add_to.float()).to(x.dtype)


# One compiled kernel for any number of tokens that tensor cores take.
@triton.jit(do_not_specialize=["tokens"])
def _skinny_linear(
    x,
    weight,
    norm_weight,
    scales,
    bias,
    out,
    tokens,
    x_stride,
    eps,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    # The rows of the gate, then those of up. Past the end, the last row is read again.
    rows: tl.constexpr = 2 * BLOCK_N if GATED else BLOCK_N
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, rows) % BLOCK_N
    row = tl.minimum(row, OUTPUTS - 1) + tl.arange(0, rows) // BLOCK_N * OUTPUTS
    of_row = weight + row.to(tl.int64)[:, None] * INPUTS
    token = tl.arange(0, BLOCK_T)
    is_token = (token < tokens)[:, None]
    of_token = x + token[:, None] * x_stride
    column = tl.arange(0, BLOCK_K)[None, :]
    if BLOCK_T == 1:
        products = tl.zeros([rows, BLOCK_K], tl.float32)
        squares = tl.zeros([1, BLOCK_K], tl.float32)
        for start in tl.range(0, INPUTS, BLOCK_K, num_stages=STAGES):
            numbers = _load_row_part(of_row, start + column, INPUTS, BLOCK_K).to(tl.float32)
            value = _load_row_part(of_token, start + column, INPUTS, BLOCK_K).to(tl.float32)
            if norm_weight is not None:
                squares += value * value
                factor = _load_row_part(norm_weight, start + column, INPUTS, BLOCK_K)
                value *= factor.to(tl.float32)
            products += numbers * value
        sums = tl.sum(products, 1)[None, :]
        if norm_weight is not None:
            sums *= tl.rsqrt(tl.sum(squares, 1) / INPUTS + eps)[:, None]
    else:
        sums = tl.zeros([BLOCK_T, rows], tl.float32)
        for start in tl.range(0, INPUTS, BLOCK_K, num_stages=STAGES):
            numbers = _load_row_part(of_row, start + column, INPUTS, BLOCK_K).to(x.dtype.element_ty)
            inside = is_token & (start + column < INPUTS)
            value = tl.load(of_token + start + column, mask=inside, other=0.0)
            sums = tl.dot(value, numbers.T, sums, input_precision="ieee")

    if scales is not None:
        sums *= tl.load(scales + row)[None, :]
    if bias is not None:
        sums += tl.load(bias + row).to(tl.float32)[None, :]
    if GATED:
        pairs = tl.permute(tl.reshape(sums, [BLOCK_T, 2, BLOCK_N]), (0, 2, 1))
        gate, up = tl.split(pairs)
        sums = gate * tl.sigmoid(gate) * up
    output = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    place = out + token[:, None] * OUTPUTS + output
    inside = is_token & (output < OUTPUTS)
    if ADD:
        sums += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, sums.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _load_row_part(start_of_row, column, INPUTS: tl.constexpr, BLOCK_K: tl.constexpr):
    if INPUTS % BLOCK_K == 0:
        return tl.load(start_of_row + column)
    return tl.load(start_of_row + column, mask=column < INPUTS, other=0.0)
