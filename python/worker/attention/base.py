"""The interface of an attention backend, and the scoped context that hands it to layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .batch import ForwardBatch


@dataclass(frozen=True)
class AttentionSpec:
    """The shape of one layer's attention.

    `sliding_window` counts the tokens that a query sees, itself included.
    """

    layer_id: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    sliding_window: int | None = None


class AttentionBackend(ABC):
    """Attention over a paged KV cache: `plan` once a step, `forward` once a layer."""

    @abstractmethod
    def plan(self, batch: ForwardBatch) -> None:
        """Prepare what all layers of this step share."""

    @abstractmethod
    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        """Write k and v into the cache, then attend.

        q: [tokens, num_heads, head_dim]; k, v: [tokens, num_kv_heads, head_dim]; rope is already
            applied.
        Returns [tokens, num_heads, head_dim]. Each query sees its sequence's tokens up to its own
        position.
        """


_current: AttentionBackend | None = None


@contextmanager
def forward_context(backend: AttentionBackend) -> Iterator[None]:
    """Make `backend` the one that attention layers use, for the duration of one forward pass."""
    global _current
    assert _current is None, "forward passes do not nest"
    _current = backend
    try:
        yield
    finally:
        _current = None


def current_backend() -> AttentionBackend:
    """The backend of the running forward pass."""
    assert _current is not None, "attention is computed inside forward_context"
    return _current
