"""An attention backend for tests: one sequence, an explicit mask, everything written out."""

from __future__ import annotations

import numpy as np
import torch

from worker.attention.base import AttentionBackend, AttentionSpec, forward_context
from worker.attention.batch import ForwardBatch
from worker.models.model import Model

_NONE = torch.empty(0, dtype=torch.int64)
_NO_LENGTHS = np.empty(0, dtype=np.int32)

# This backend is for one sequence, without a page table.
NO_BATCH = ForwardBatch(
    input_ids=_NONE,
    positions=_NONE,
    out_slots=_NONE,
    rows=_NONE,
    seq_lens_device=_NONE,
    query_starts=_NONE,
    page_table=_NONE,
    seq_lens=_NO_LENGTHS,
    query_lens=_NO_LENGTHS,
    num_decodes=0,
)


class DenseAttention(AttentionBackend):
    """Appends each layer's keys and values, and attends with an explicit mask."""

    def __init__(self) -> None:
        super().__init__([], [])
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec) -> None: ...

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        if spec.layer_id in self._cache:
            before_k, before_v = self._cache[spec.layer_id]
            k, v = torch.cat((before_k, k)), torch.cat((before_v, v))
        self._cache[spec.layer_id] = k.clone(), v.clone()
        groups = spec.num_heads // spec.num_kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        keys = torch.arange(k.shape[0])
        queries = keys[-q.shape[0] :, None]
        seen = keys <= queries
        if spec.sliding_window is not None:
            seen &= keys > queries - spec.sliding_window
        scores = torch.einsum("qhd,khd->hqk", q, k) * spec.scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
        return torch.einsum("hqk,khd->qhd", weights, v)


def logits(model: Model, token_ids: list[int], step: int | None = None) -> torch.Tensor:
    """Logits after every token, [tokens, vocab] float32, computed `step` tokens at a time."""
    backend, parts = DenseAttention(), []
    tokens, positions = torch.tensor(token_ids), torch.arange(len(token_ids))
    step = step or len(token_ids)
    with torch.inference_mode(), forward_context(backend, NO_BATCH):
        for ids, places in zip(tokens.split(step), positions.split(step), strict=True):
            parts.append(model.compute_logits(model(ids, places)))
    return torch.cat(parts)
