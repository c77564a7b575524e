"""Attention over whole texts, each token over all of its text's: for encoders, without a cache."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .base import AttentionBackend, AttentionSpec, UnsupportedAttention, current_batch
from .batch import ForwardBatch


class Bidirectional(AttentionBackend):
    """Attention in which every text of a step is there as a whole.

    Texts lie one behind the other without padding. In a 16-bit dtype a GPU attends to all of them
    in one launch; otherwise those of equal length that stand side by side are attended to at once.
    """

    caches = False

    def __init__(self) -> None:
        super().__init__([], [])
        self._varlen: Callable[..., Any] | None = None

    def prepare(self, specs: Sequence[AttentionSpec], dtype: torch.dtype) -> None:
        for spec in specs:
            if spec.sliding_window is not None:
                raise UnsupportedAttention(
                    "sliding windows are not supported beside is_causal false"
                )
        head_dim = specs[0].head_dim
        if torch.cuda.is_available() and dtype.itemsize == 2 and head_dim in range(8, 257, 8):
            self._varlen = _varlen_attention()

    def plan(self, batch: ForwardBatch) -> None:
        assert (batch.query_lens == batch.seq_lens).all(), "texts are not computed in chunks"
        lengths: list[int] = batch.seq_lens.tolist()
        self._longest = max(lengths)
        groups = [(length, len(list(group))) for length, group in itertools.groupby(lengths)]
        self._counts = [count for _, count in groups]
        self._tokens = [length * count for length, count in groups]

    def write(self, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec) -> None:
        """Nothing is kept."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        if self._varlen is not None and q.is_cuda:
            starts, longest = current_batch().query_starts, self._longest
            return self._varlen(q, k, v, starts, starts, longest, longest, scale=spec.scale)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        groups = (tensor.split(self._tokens) for tensor in (q, k, v, out))
        for count, *group in zip(self._counts, *groups, strict=True):
            _attend(count, *group, scale=spec.scale)
        return out


def _attend(
    count: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float,
) -> None:
    """Attention of `count` texts of equal length: [tokens of all, heads, head_dim] each.

    The queries that share a key head are viewed as those of one longer text: there is no mask.
    """
    kv_heads, head_dim = k.shape[1:]
    # [texts, tokens of one, KV heads, queries that share one, head_dim]
    q, k, v, out = (
        x.view(count, -1, kv_heads, x.shape[1] // kv_heads, head_dim) for x in (q, k, v, out)
    )
    shared = q.permute(0, 2, 3, 1, 4).flatten(2, 3)
    keys, values = (x.squeeze(3).transpose(1, 2) for x in (k, v))
    attended = F.scaled_dot_product_attention(shared, keys, values, scale=scale)
    out.copy_(attended.view(count, kv_heads, -1, q.shape[1], head_dim).permute(0, 3, 1, 2, 4))


def _varlen_attention() -> Callable[..., Any] | None:
    """Torch's, if this version has it and takes a scale."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "scale" in inspect.signature(varlen_attn).parameters else None
