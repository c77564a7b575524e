"""The attention layer: from the projections of a step's tokens to what they attend to."""

from __future__ import annotations

import torch
from torch import nn

from ..attention.base import AttentionSpec, current_backend, current_batch
from .norm import QKNorm
from .rope import Rotation, rotate

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Attention(nn.Module):
    """Attention of one layer, whose shape is `spec`; has no weights of its own.

    `qk_norm` is applied to queries and keys before rope.
    """

    def __init__(self, spec: AttentionSpec, qk_norm: QKNorm | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.qk_norm = qk_norm
        self._parts = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)

    def forward(self, qkv: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Normalize and turn queries and keys, write keys and values to the cache, and attend.

        qkv: [tokens, (num_heads + 2 num_kv_heads) · head_dim], queries, keys, values; on a GPU it
            may be changed in place
        Returns [tokens, num_heads, head_dim].
        """
        backend = current_backend()
        write = self.write_fused if qkv.is_cuda and backend.caches else self.write
        q, k, v = write(qkv, rotation)
        return backend.attend(q, k, v, self.spec)

    def write(self, qkv: torch.Tensor, rotation: Rotation) -> Heads:
        """Queries, keys and values [tokens, heads, head_dim], ready; the latter two are cached."""
        qk, v = self._heads(qkv).split((sum(self._parts[:2]), self._parts[2]), dim=1)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        q, k = rotate(qk, rotation).split(self._parts[:2], dim=1)
        current_backend().write(k, v, self.spec)
        return q, k, v

    def write_fused(self, qkv: torch.Tensor, rotation: Rotation) -> Heads:
        """`write` in one launch, in place: queries, keys and values are parts of `qkv`."""
        from ..kernels.rope import qk_norm_rope_write

        backend, layer, norm = current_backend(), self.spec.layer_id, self.qk_norm
        qk_norm_rope_write(
            qkv,
            rotation.positions,
            rotation.table,
            None if norm is None else norm.q_weight,
            None if norm is None else norm.k_weight,
            0.0 if norm is None else norm.eps,
            backend.k_cache[layer],
            backend.v_cache[layer],
            current_batch().out_slots,
            self.spec.num_heads,
            self.spec.num_kv_heads,
        )
        q, k, v = self._heads(qkv).split(self._parts, dim=1)
        return q, k, v

    def _heads(self, qkv: torch.Tensor) -> torch.Tensor:
        return qkv.view(len(qkv), sum(self._parts), self.spec.head_dim)
