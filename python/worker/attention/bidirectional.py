"""Attention over whole texts, each token over all of its text's: for encoders, without a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .base import AttentionBackend, AttentionSpec, UnsupportedAttention, current_batch
from .batch import ForwardBatch


class Bidirectional(AttentionBackend):
    """Attention in which every text of a step is there as a whole.

    Texts lie one behind the other without padding. In a 16-bit dtype a GPU attends to all of them
    in one launch; otherwise they are attended to one by one, which on a CPU is as fast as in groups
    of like length.
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
        self._lengths: list[int] = batch.seq_lens.tolist()
        self._longest = max(self._lengths)

    def write(self, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec) -> None:
        """Nothing is kept."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        if self._varlen is not None and q.is_cuda:
            starts, longest = current_batch().query_starts, self._longest
            return self._varlen(q, k, v, starts, starts, longest, longest, scale=spec.scale)
        texts = zip(*(tensor.split(self._lengths) for tensor in (q, k, v)), strict=True)
        return torch.cat([_attend(text, keys, values, spec.scale) for text, keys, values in texts])


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of one text: [tokens, heads, head_dim] each. Returns the shape of `q`.

    The queries that share a key head are viewed as those of one longer text: there is no mask.
    """
    tokens, _, head_dim = q.shape
    groups = q.view(tokens, k.shape[1], -1, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
    attended = F.scaled_dot_product_attention(
        groups[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], scale=scale
    )
    return attended.view(k.shape[1], -1, tokens, head_dim).permute(2, 0, 1, 3).flatten(1, 2)


def _varlen_attention() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None
    return varlen_attn
