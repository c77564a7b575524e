"""SiLU of the gate times the up projection, in one pass."""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

_BLOCK = 1024


def silu_and_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """What `silu_and_mul` computes."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up, in float32 inside.

    gate_up: [tokens, 2 size], contiguous, the gate in the first half. Returns [tokens, size].
    """
    tokens, both = gate_up.shape
    size = both // 2
    activated = gate_up.new_empty(tokens, size)
    _silu_and_mul[(tokens, triton.cdiv(size, _BLOCK))](
        gate_up, activated, SIZE=size, BLOCK=_BLOCK, num_warps=4
    )
    return activated


@triton.jit
def _silu_and_mul(gate_up, activated, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < SIZE
    source = gate_up + token * 2 * SIZE + columns
    gate = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(source + SIZE, mask=mask, other=0.0).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    tl.store(activated + token * SIZE + columns, result.to(activated.dtype.element_ty), mask=mask)
