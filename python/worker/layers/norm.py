"""Root mean square normalization, over the hidden size or over each head of queries and keys, and
layer normalization.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .slots import Slots, WeightSlot, empty_weight


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last dimension, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_weight(size)
        self.eps = eps
        self._shape = (size,)

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalize x + residual. x, residual: [tokens, size].

        Returns the normalized sum, and the sum itself: it is `residual`, changed in place, or x if
        there is none.
        """
        if x.is_cuda:
            from ..kernels.norm import add_rms_norm

            return add_rms_norm(x, residual, self.weight, self.eps)
        residual = x if residual is None else residual.add_(x)
        return F.rms_norm(residual, self._shape, self.weight, self.eps), residual

    def slots(self, name: str) -> Slots:
        yield f"{name}.weight", WeightSlot(self.weight)


class QKNorm(nn.Module):
    """RMSNorm over each head's dimensions, with one weight for all queries and one for all keys."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.q_weight = empty_weight(head_dim)
        self.k_weight = empty_weight(head_dim)
        self.eps = eps
        self._parts = (num_heads, num_kv_heads)
        self._shape = (head_dim,)

    def forward(self, qk: torch.Tensor) -> torch.Tensor:
        """qk: [tokens, num_heads + num_kv_heads, head_dim], the query heads first.

        Returns the same shape, new.
        """
        normed = F.rms_norm(qk, self._shape, eps=self.eps)
        q, k = normed.split(self._parts, dim=1)
        q.mul_(self.q_weight)
        k.mul_(self.k_weight)
        return normed

    def slots(self, name: str) -> Slots:
        """Where the checkpoint's tensors go; `name` is the prefix of its q_norm and k_norm."""
        yield f"{name}.q_norm.weight", WeightSlot(self.q_weight)
        yield f"{name}.k_norm.weight", WeightSlot(self.k_weight)


class LayerNorm(nn.Module):
    """(x - mean) / deviation · weight + bias over the last dimension, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_weight(size)
        self.bias = empty_weight(size)
        self.eps = eps
        self._shape = (size,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [tokens, size]. Returns the same shape, new."""
        return F.layer_norm(x, self._shape, self.weight, self.bias, self.eps)

    def slots(self, name: str) -> Slots:
        yield f"{name}.weight", WeightSlot(self.weight)
        yield f"{name}.bias", WeightSlot(self.bias)
