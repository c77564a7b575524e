"""Attention by our own Triton kernels: any mix of decodes and prompt chunks, under CUDA graphs too.

Decodes are one launch, planned on the host and uploaded with the step. Chunks are another, except
for those that a library's dense kernel computes faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from ..kernels.decode_attention import (
    WORDS_PER_ITEM,
    DecodeTile,
    DecodeWorkspace,
    decode_attention,
    max_items,
    plan_decode,
    split_target,
)
from ..kernels.extend_attention import (
    HEAD_BYTES_MULTIPLE,
    ExtendTile,
    extend_attention,
    plan_extend,
)
from . import fresh_prefill
from .base import AttentionBackend, AttentionSpec, HostPlan, UnsupportedAttention, current_batch
from .batch import ForwardBatch


@dataclass(frozen=True)
class _Chip:
    """What kernels are fitted to: how many multiprocessors, how much shared memory a program may
    have, in bytes.
    """

    multiprocessors: int
    shared_memory: int

    @classmethod
    def of(cls, device: torch.device) -> _Chip:
        if device.type == "cpu":  # Triton's interpreter runs programs in turn, in any memory
            return cls(multiprocessors=8, shared_memory=1 << 30)
        properties = torch.cuda.get_device_properties(device)
        return cls(properties.multi_processor_count, properties.shared_memory_per_block_optin)


@dataclass(frozen=True)
class _Chunks:
    """The prompt chunks of a step.

    every: [chunks] their sequences; dense: those for a dense kernel, if it is usable;
    others: [chunks] the sequences of the rest
    tile_plans: the extend kernel's work lists on the device, by sequences and tokens of a tile
    """

    every: np.ndarray
    dense: list[fresh_prefill.Group]
    others: np.ndarray
    tile_plans: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: ForwardBatch) -> _Chunks:
        every = np.arange(batch.num_decodes, len(batch.seq_lens))
        tokens = batch.query_lens[every]
        starts = batch.num_decodes + np.cumsum(tokens) - tokens
        dense, grouped = fresh_prefill.group_chunks(
            starts, tokens, is_fresh=batch.seq_lens[every] == tokens
        )
        return cls(every, dense, every[~grouped])


class TritonBackend(AttentionBackend):
    """NVIDIA GPUs; elsewhere Triton's interpreter, for tests."""

    supports_graphs: ClassVar[bool] = True

    def __init__(self, k_cache: list[torch.Tensor], v_cache: list[torch.Tensor]) -> None:
        super().__init__(k_cache, v_cache)
        self._chip = _Chip.of(k_cache[0].device)
        self._split_target = split_target(self._chip.multiprocessors, k_cache[0].shape[1])
        self._workspaces: dict[tuple[int, int], DecodeWorkspace] = {}
        self._chunks: _Chunks | None = None

    def prepare(self, specs: Sequence[AttentionSpec], dtype: torch.dtype) -> None:
        for spec in specs:
            if spec.head_dim * dtype.itemsize % HEAD_BYTES_MULTIPLE:
                raise UnsupportedAttention(
                    f"the triton attention backend computes no {dtype} heads of size "
                    f"{spec.head_dim}; use torch_native"
                )

    def plan_size(self, max_sequences: int, shares_prefixes: bool = False) -> int:
        return max_items(max_sequences, self._split_target) * WORDS_PER_ITEM

    def plan_host(
        self,
        seq_lens: np.ndarray,
        query_lens: np.ndarray,
        num_decodes: int,
        padded: int,
        shared_lens: np.ndarray | None = None,
    ) -> HostPlan | None:
        if not padded:
            return None
        return HostPlan(plan_decode(seq_lens[:num_decodes], padded, self._split_target))

    def plan(self, batch: ForwardBatch) -> None:
        decodes_only = batch.num_decodes == len(batch.seq_lens)
        self._chunks = None if decodes_only else _Chunks.of(batch)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        batch = current_batch()
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if batch.num_decodes:
            self._decode(q, out, spec)
        if self._chunks is not None:
            self._prefill(q, k, v, out, spec, self._chunks)
        return out

    def _decode(self, q: torch.Tensor, out: torch.Tensor, spec: AttentionSpec) -> None:
        batch, k_cache = current_batch(), self.k_cache[spec.layer_id]
        assert batch.plan is not None
        decode_attention(
            q,
            k_cache,
            self.v_cache[spec.layer_id],
            out,
            plan=batch.plan,
            workspace=self._workspace(spec),
            tile=DecodeTile.choose(
                spec.head_dim,
                k_cache.element_size(),
                self._chip.shared_memory,
                batch.num_decodes * spec.num_kv_heads / self._chip.multiprocessors,
            ),
            **_paging(batch),
            **_options(spec),
        )

    def _prefill(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        spec: AttentionSpec,
        chunks: _Chunks,
    ) -> None:
        batch, sequences = current_batch(), chunks.every
        if chunks.dense and fresh_prefill.usable(spec, q.dtype, q.device):
            for group in chunks.dense:
                fresh_prefill.attend_group(q, k, v, out, group, spec.scale)
            sequences = chunks.others
        if not len(sequences):
            return
        tile = ExtendTile.choose(spec.head_dim, q.element_size(), self._chip.shared_memory)
        tile_tokens = tile.tokens(spec.num_heads // spec.num_kv_heads)
        key = (len(sequences), tile_tokens)
        if key not in chunks.tile_plans:
            plan = plan_extend(batch.seq_lens, batch.query_lens, sequences, tile_tokens)
            chunks.tile_plans[key] = _upload(plan, q.device)
        extend_attention(
            q,
            k,
            v,
            self.k_cache[spec.layer_id],
            self.v_cache[spec.layer_id],
            out,
            plan=chunks.tile_plans[key],
            query_starts=batch.query_starts,
            tile=tile,
            **_paging(batch),
            **_options(spec),
        )

    def _workspace(self, spec: AttentionSpec) -> DecodeWorkspace:
        """Shared by all layers of one shape, which run one after the other."""
        key = (spec.num_heads, spec.head_dim)
        if key not in self._workspaces:
            self._workspaces[key] = DecodeWorkspace.allocate(
                self._split_target,
                spec.num_heads,
                spec.num_kv_heads,
                spec.head_dim,
                self.k_cache[0].device,
            )
        return self._workspaces[key]


def _paging(batch: ForwardBatch) -> dict[str, torch.Tensor]:
    """Both kernels' arguments that say where a sequence's keys lie."""
    return {
        "rows": batch.rows,
        "page_table": batch.page_table,
        "seq_lens": batch.seq_lens_device,
    }


def _options(spec: AttentionSpec) -> dict[str, Any]:
    """Both kernels' arguments that say how a layer weighs its keys."""
    return {
        "scale": spec.scale,
        "sliding_window": spec.sliding_window,
        "logit_soft_cap": spec.logit_soft_cap,
        "sinks": spec.sinks,
    }


def _upload(words: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy int32 words to the device without waiting for it."""
    host = torch.from_numpy(words)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)
