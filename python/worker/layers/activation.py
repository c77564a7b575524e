"""Activations of gated feed-forward networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up.

    gate_up: [tokens, 2 size], the gate in the first half; returns [tokens, size], contiguous.
    """
    if gate_up.is_cuda:
        from ..kernels.activation import silu_and_mul as fused

        return fused(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.mul(F.silu(gate), up)
