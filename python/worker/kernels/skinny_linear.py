"""Linear layers of a few tokens, at the speed of memory.

A decode step of a few requests is bound by reading weights. Here each program reads some rows of a
weight, once and in a stream, and does what stands around the product as well: RMSNorm of the input,
the gate of a feed-forward network, the sum with the residual stream. One token is multiplied with
the numbers as they come; up to 8 go to tensor cores, as columns of a tile that they do not fill,
and are normalized before.
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
            return cls(16, 512, num_warps=4, num_stages=5)
        if itemsize == 1:
            return cls(8, 1024, num_warps=4, num_stages=3)
        if inputs > 4096:
            return cls(2, 2048, num_warps=4, num_stages=1)
        columns = max(512, 1 << (inputs - 1).bit_length())
        return cls(4, columns, num_warps=columns // 512, num_stages=1)


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
) -> torch.Tensor:
    """y = norm(x) Wᵀ · scales + b, added up in float32.

    x: [tokens, inputs], the last axis contiguous; 1 to 8 tokens, for speed
    weight: [outputs, inputs], contiguous, in x's dtype or an 8-bit float; bias: [outputs]
    norm_weight: [inputs], of an RMSNorm of x, for one token only; None: x is taken as it is
    scales: [outputs] float32
    gated: the result is silu(y's first half) · second half
    add_to: [tokens, outputs], contiguous: the result is added to it, in place
    Returns [tokens, outputs], or half of them if gated, in x's dtype; `add_to` if it is given.
    """
    tokens, inputs = x.shape
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    tile = Tile.choose(tokens, inputs, weight.element_size())
    block_n = tile.rows // 2 if gated else tile.rows
    out = x.new_empty(tokens, outputs) if add_to is None else add_to
    early = launches_early(x.device)
    options = {
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "GATED": gated,
        "ADD": add_to is not None,
        "BLOCK_N": block_n,
        "BLOCK_K": tile.columns,
        "STAGES": tile.num_stages,
        "EARLY": early,
        "num_warps": tile.num_warps,
        "launch_pdl": early,
    }
    grid = (triton.cdiv(outputs, block_n),)
    if tokens == 1:
        _skinny_one[grid](x, weight, norm_weight, scales, bias, out, eps, **options)
    else:
        assert norm_weight is None, "tensor cores take their operands as they are"
        options["BLOCK_T"] = max(8, triton.next_power_of_2(tokens))
        options["WARPS"] = tile.num_warps
        _skinny_few[grid](x, weight, scales, bias, out, tokens, x.stride(0), **options)
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


@triton.jit
def _skinny_one(
    x,
    weight,
    norm_weight,
    scales,
    bias,
    out,
    eps,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One token; its sum of squares is a sum over the columns like the products."""
    row = _rows(OUTPUTS, GATED, BLOCK_N)
    of_row = weight + row.to(tl.int64)[:, None] * INPUTS
    column = tl.arange(0, BLOCK_K)[None, :]
    if EARLY:
        gdc_launch_dependents()
    # Without shared memory to hold what comes, it waits in registers: the first part is on its way
    # before the input is there, each other one before the part ahead of it is multiplied.
    if STAGES == 1:
        following = _load_columns(of_row, column, INPUTS, BLOCK_K)
    if EARLY:
        gdc_wait()
    products = tl.zeros([row.shape[0], BLOCK_K], tl.float32)
    squares = tl.zeros([1, BLOCK_K], tl.float32)
    for start in tl.range(0, INPUTS, BLOCK_K, num_stages=STAGES):
        if STAGES == 1:
            numbers = following
            if INPUTS > BLOCK_K:
                after = start + BLOCK_K + column
                following = tl.load(of_row + after, mask=after < INPUTS, other=0.0)
        else:
            numbers = _load_columns(of_row, start + column, INPUTS, BLOCK_K)
        value = _load_columns(x, start + column, INPUTS, BLOCK_K).to(tl.float32)
        if norm_weight is not None:
            squares += value * value
            factor = _load_columns(norm_weight, start + column, INPUTS, BLOCK_K)
            value *= factor.to(tl.float32)
        products += numbers.to(tl.float32) * value
    sums = tl.sum(products, 1)[None, :]
    if norm_weight is not None:
        sums *= tl.rsqrt(tl.sum(squares, 1) / INPUTS + eps)[:, None]
    _finish(sums, row, scales, bias, out, 1, OUTPUTS, GATED, ADD, 1, BLOCK_N)


# One compiled kernel for any number of tokens up to BLOCK_T.
@triton.jit(do_not_specialize=["tokens"])
def _skinny_few(
    x,
    weight,
    scales,
    bias,
    out,
    tokens,
    x_stride,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WARPS: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Several tokens. Of each block of columns, a warp takes its part, for all rows and tokens:
    so few rows at once keep all warps busy.
    """
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = _rows(OUTPUTS, GATED, BLOCK_N)
    token = tl.arange(0, BLOCK_T)
    is_token = (token < tokens)[None, :, None]
    of_row = weight + row.to(tl.int64)[None, :, None] * INPUTS
    of_token = x + token[None, :, None] * x_stride
    part = tl.arange(0, WARPS)[:, None, None] * (BLOCK_K // WARPS)
    part += tl.arange(0, BLOCK_K // WARPS)[None, None, :]
    products = tl.zeros([WARPS, row.shape[0], BLOCK_T], tl.float32)
    for start in tl.range(0, INPUTS, BLOCK_K, num_stages=STAGES):
        column = start + part
        numbers = _load_columns(of_row, column, INPUTS, BLOCK_K).to(x.dtype.element_ty)
        value = tl.load(of_token + column, mask=is_token & (column < INPUTS), other=0.0)
        value = tl.permute(value, (0, 2, 1))
        products = tl.dot(numbers, value, products, input_precision="ieee")
    sums = tl.trans(tl.sum(products, 0))
    _finish(sums, row, scales, bias, out, tokens, OUTPUTS, GATED, ADD, BLOCK_T, BLOCK_N)


@triton.jit
def _rows(OUTPUTS: tl.constexpr, GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The program's rows of the weight: those of the gate, then those of up."""
    rows: tl.constexpr = 2 * BLOCK_N if GATED else BLOCK_N
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, rows) % BLOCK_N
    row = tl.minimum(row, OUTPUTS - 1)  # past the end, the last one is read again
    return row + tl.arange(0, rows) // BLOCK_N * OUTPUTS


@triton.jit
def _load_columns(start_of_row, column, INPUTS: tl.constexpr, BLOCK_K: tl.constexpr):
    if INPUTS % BLOCK_K == 0:
        return tl.load(start_of_row + column)
    return tl.load(start_of_row + column, mask=column < INPUTS, other=0.0)


@triton.jit
def _finish(
    sums,
    row,
    scales,
    bias,
    out,
    tokens,
    OUTPUTS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From the products' sums [BLOCK_T, rows] to the result in `out`."""
    if scales is not None:
        sums *= tl.load(scales + row)[None, :]
    if bias is not None:
        sums += tl.load(bias + row).to(tl.float32)[None, :]
    if GATED:
        pairs = tl.permute(tl.reshape(sums, [BLOCK_T, 2, BLOCK_N]), (0, 2, 1))
        gate, up = tl.split(pairs)
        sums = gate * tl.sigmoid(gate) * up
    token = tl.arange(0, BLOCK_T)[:, None]
    output = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    inside = (token < tokens) & (output < OUTPUTS)
    place = out + token * OUTPUTS + output
    if ADD:
        sums += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, sums.to(out.dtype.element_ty), mask=inside)
