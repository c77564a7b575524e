"""The interface of an attention backend, and the scoped context that hands it to layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from .batch import ForwardBatch


@dataclass(frozen=True)
class AttentionSpec:
    """The shape of one layer's attention.

    `sliding_window` counts the tokens that a query sees, itself included. `logit_soft_cap` c turns
    a score s into c · tanh(s / c). `sinks` [num_heads] float32 are scores of a key without value.
    """

    layer_id: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    sliding_window: int | None = None
    logit_soft_cap: float | None = None
    sinks: torch.Tensor | None = None


@dataclass(frozen=True)
class HostPlan:
    """What a backend's kernels are to do in a step: `words` [n] int32, uploaded with all else.

    `shares_prefixes`: they read what decoding sequences share once, for which there are other
    launches, and other CUDA graphs.
    """

    words: np.ndarray
    shares_prefixes: bool = False


class UnsupportedAttention(RuntimeError):
    """A backend cannot serve this model here; the message is one line for the user."""


class AttentionBackend(ABC):
    """Attention over a paged KV cache.

    Once a step: `plan_host` on the host's lengths, whose words the runtime uploads together with
    everything else, then `plan`. Once a layer: `write`, then `attend`.

    k_cache, v_cache: one tensor a layer, [slots + 1, kv_heads, head_dim]; the last slot is spare.
    """

    # Whether decode steps may be captured in CUDA graphs.
    supports_graphs: ClassVar[bool] = False
    # Whether `plan_host` makes use of shared prefixes.
    shares_prefixes: ClassVar[bool] = False
    # Whether keys and values are kept for later steps.
    caches: ClassVar[bool] = True

    def __init__(self, k_cache: list[torch.Tensor], v_cache: list[torch.Tensor]) -> None:
        self.k_cache = k_cache
        self.v_cache = v_cache

    def prepare(  # noqa: B027 - a backend may take every shape
        self, specs: Sequence[AttentionSpec], dtype: torch.dtype
    ) -> None:
        """Called once, before all steps: the layers' shapes and the dtype of queries.

        Raises UnsupportedAttention if the backend cannot compute them.
        """

    def plan_size(self, max_sequences: int, shares_prefixes: bool = False) -> int:
        """How many words `plan_host` returns at most for so many decoding sequences."""
        return 0

    def plan_host(
        self,
        seq_lens: np.ndarray,
        query_lens: np.ndarray,
        num_decodes: int,
        padded: int,
        shared_lens: np.ndarray | None = None,
    ) -> HostPlan | None:
        """Work to be done by the device's kernels; None for nothing.

        seq_lens, query_lens: [sequences] int32, the decodes first. Under a CUDA graph there are
        decodes only, padded to `padded` sequences.
        shared_lens: as in `ForwardBatch`; a plan need not make use of it
        """
        return None

    def plan(self, batch: ForwardBatch) -> None:  # noqa: B027 - a backend may share nothing
        """Prepare what all layers of this step share.

        Under a CUDA graph it is called before the capture and before each replay, with the graph's
        own tensors: it may only write into memory that the captured kernels read.
        """

    def write(self, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec) -> None:
        """Put this step's keys and values, [tokens, kv_heads, head_dim] each, into the cache."""
        out_slots = current_batch().out_slots.long()
        for cache, new in ((self.k_cache, k), (self.v_cache, v)):
            _store(cache[spec.layer_id], out_slots, new)

    @abstractmethod
    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        """Attention of this step's tokens, whose keys and values are in the cache already.

        q: [tokens, num_heads, head_dim]; k, v: [tokens, num_kv_heads, head_dim]; rope is already
            applied.
        Returns [tokens, num_heads, head_dim]. Each query sees its sequence's tokens up to its own
        position.
        """


def _store(cache: torch.Tensor, slots: torch.Tensor, new: torch.Tensor) -> None:
    """Copy `new` [n, kv_heads, head_dim] to `slots` [n] int64 of `cache`.

    What FP8 cannot hold becomes its largest number.
    """
    if cache.dtype.itemsize > 1:
        cache.index_copy_(0, slots, new.to(cache.dtype))
        return
    largest = torch.finfo(cache.dtype).max
    narrow = new.clamp(-largest, largest).to(cache.dtype)
    # As bytes: torch copies no FP8 numbers by index.
    cache.view(torch.uint8).index_copy_(0, slots, narrow.view(torch.uint8))


@dataclass(frozen=True)
class _Forward:
    backend: AttentionBackend
    batch: ForwardBatch


_current: _Forward | None = None


@contextmanager
def forward_context(backend: AttentionBackend, batch: ForwardBatch) -> Iterator[None]:
    """Make `backend` and `batch` those of the layers, for the duration of one forward pass."""
    global _current
    assert _current is None, "forward passes do not nest"
    _current = _Forward(backend, batch)
    try:
        yield
    finally:
        _current = None


def current_backend() -> AttentionBackend:
    """The backend of the running forward pass."""
    return _running().backend


def current_batch() -> ForwardBatch:
    """What the running forward pass computes."""
    return _running().batch


def _running() -> _Forward:
    assert _current is not None, "attention is computed inside forward_context"
    return _current
