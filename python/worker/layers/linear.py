"""Linear layers: plain, and several projections of one input merged into one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .packed_weight import can_pack, pack, packed_linear
from .slots import Slots, empty_weight


class Linear(nn.Module):
    """y = x Wᵀ + b. x: [tokens, inputs]; weight: [outputs, inputs]; returns [tokens, outputs]."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = empty_weight(outputs, inputs)
        self.bias = empty_weight(outputs) if bias else None
        self._packed: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._packed is not None:
            return packed_linear(x, self._packed, self.bias)
        return F.linear(x, self.weight, self.bias)

    def pack(self) -> None:
        """Bring the loaded weight into the fastest layout, in the place of the plain one."""
        if can_pack(self.weight):
            self._packed = pack(self.weight)
            self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def slots(self, name: str) -> Slots:
        """Where the checkpoint's tensors go: `name`.weight and, with a bias, `name`.bias."""
        yield f"{name}.weight", self.weight
        if self.bias is not None:
            yield f"{name}.bias", self.bias


class MergedLinear(Linear):
    """Projections of one input, stacked: outputs lie side by side in [tokens, sum of `sizes`].

    `names` are what the checkpoint calls the projections, in the order of `sizes`.
    """

    def __init__(
        self, inputs: int, names: Sequence[str], sizes: Sequence[int], bias: bool = False
    ) -> None:
        super().__init__(inputs, sum(sizes), bias)
        self.names, self.sizes = tuple(names), tuple(sizes)

    def slots(self, name: str) -> Slots:
        """Where the checkpoint's tensors go: each projection to its rows, behind prefix `name`."""
        for part, weight in zip(self.names, self.weight.split(self.sizes), strict=True):
            yield f"{name}.{part}.weight", weight
        if self.bias is not None:
            for part, bias in zip(self.names, self.bias.split(self.sizes), strict=True):
                yield f"{name}.{part}.bias", bias


class QKVLinear(MergedLinear):
    """Queries, then keys, then values: [tokens, (num_heads + 2 num_kv_heads) · head_dim]."""

    def __init__(
        self, inputs: int, num_heads: int, num_kv_heads: int, head_dim: int, bias: bool = False
    ) -> None:
        sizes = (num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim)
        super().__init__(inputs, ("q_proj", "k_proj", "v_proj"), sizes, bias)
