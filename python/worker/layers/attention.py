"""The attention layer: hands queries, keys and values to the backend of the running step."""

from __future__ import annotations

import torch
from torch import nn

from ..attention.base import AttentionSpec, current_backend


class Attention(nn.Module):
    """Attention of one layer, whose shape is `spec`; has no weights."""

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q: [tokens, num_heads, head_dim]; k, v: [tokens, num_kv_heads, head_dim]. Returns q's."""
        backend = current_backend()
        backend.write(k, v, self.spec)
        return backend.attend(q, k, v, self.spec)
