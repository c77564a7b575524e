"""Attention by our own Triton kernels: any mix of decodes and prompt chunks, under CUDA graphs too.

Decodes are one launch, planned on the host and uploaded with the step; where it pays to read the
prefixes that they share once, another launch before it does. Chunks are one more, except for those
that a library's dense kernel computes faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    SharedPartials,
    extend_attention,
)
from ..kernels.prefix_attention import WORDS_PER_SPAN, prefix_attention
from . import fresh_prefill
from .base import AttentionBackend, AttentionSpec, HostPlan, UnsupportedAttention, current_batch
from .batch import ForwardBatch
from .chunks import Chunks
from .prefix_sharing import PrefixSharing, SharingLimits

# A launch takes as long as reading so many bytes, with what it keeps from overlapping.
_LAUNCH_BYTES = 10 << 20
_SHARED_PARTIALS = 8192  # results of a token in a shared span that a step has room for


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


class TritonBackend(AttentionBackend):
    """NVIDIA GPUs; elsewhere Triton's interpreter, for tests."""

    supports_graphs: ClassVar[bool] = True
    shares_prefixes: ClassVar[bool] = True

    def __init__(self, k_cache: list[torch.Tensor], v_cache: list[torch.Tensor]) -> None:
        super().__init__(k_cache, v_cache)
        self._chip = _Chip.of(k_cache[0].device)
        self._split_target = split_target(self._chip.multiprocessors, k_cache[0].shape[1])
        self._workspaces: dict[tuple[int, int, bool], DecodeWorkspace] = {}
        self._chunks: Chunks | None = None

    def prepare(self, specs: Sequence[AttentionSpec], dtype: torch.dtype) -> None:
        for spec in specs:
            if spec.head_dim * dtype.itemsize % HEAD_BYTES_MULTIPLE:
                raise UnsupportedAttention(
                    f"the triton attention backend computes no {dtype} heads of size "
                    f"{spec.head_dim}; use torch_native"
                )
        kv_heads, head_dim = self.k_cache[0].shape[1:]
        itemsize = self.k_cache[0].element_size()
        groups = [spec.num_heads // spec.num_kv_heads for spec in specs]
        self._limits = SharingLimits(
            tile_tokens=min(
                self._prefix_tile(spec, dtype.itemsize).tokens(group)
                for spec, group in zip(specs, groups, strict=True)
            ),
            partial_keys=4 * max(groups) / itemsize,
            launch_keys=_LAUNCH_BYTES / (2 * kv_heads * head_dim * itemsize),
            programs=self._split_target,
            partials=_SHARED_PARTIALS,
        )
        self._sharing = PrefixSharing(self._limits)

    def plan_size(self, max_sequences: int, shares_prefixes: bool = False) -> int:
        return sum(self._plan_sizes(max_sequences, shares_prefixes))

    def _plan_sizes(self, sequences: int, shares_prefixes: bool) -> list[int]:
        """How many words of a plan are the decode kernel's items, the prefix kernel's, and each
        sequence's first partial result.
        """
        items = max_items(sequences, self._split_target) * WORDS_PER_ITEM
        if not shares_prefixes:
            return [items]
        return [items, self._limits.max_items(sequences) * WORDS_PER_SPAN, sequences]

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
        seq_lens, target = seq_lens[:num_decodes], self._split_target
        shared = None
        if shared_lens is not None:
            shared = self._sharing.of_decodes(shared_lens[:num_decodes])
        if shared is None:
            return HostPlan(plan_decode(seq_lens, padded, target))
        words = plan_decode(seq_lens, padded, target, shared.lengths, shared.partials)
        items = words.reshape(-1, WORDS_PER_ITEM)
        items = items[items[:, 0] >= 0]
        first_partials = np.empty(padded, dtype=np.int32)
        first_partials[items[:, 0]] = items[:, 3]
        span_words = shared.words(self._limits.max_items(padded))
        return HostPlan(np.concatenate([words, span_words, first_partials]), shares_prefixes=True)

    def keys_read(self, plan: HostPlan, seq_lens: np.ndarray, padded: int) -> int:
        """How many keys the launches of `plan` read from memory for each KV head.

        plan: `plan_host`'s for the decoding sequences `seq_lens`; tiles of queries that read the
        same span at the same time count once
        """
        if not plan.shares_prefixes:
            return int(seq_lens.sum())
        sizes = self._plan_sizes(padded, shares_prefixes=True)
        items, spans, _ = np.split(plan.words, np.cumsum(sizes)[:-1])
        items, spans = items.reshape(-1, WORDS_PER_ITEM), spans.reshape(-1, WORDS_PER_SPAN)
        begins = np.zeros(padded, dtype=np.int32)
        real = items[items[:, 0] >= 0]
        begins[real[:, 0]] = real[:, 4]
        read = np.unique(spans[spans[:, 0] >= 0][:, :3], axis=0)
        return int((seq_lens - begins[: len(seq_lens)]).sum() + (read[:, 2] - read[:, 1]).sum())

    def plan(self, batch: ForwardBatch) -> None:
        decodes_only = batch.num_decodes == len(batch.seq_lens)
        self._chunks = None if decodes_only else Chunks.of(batch, self._sharing)

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
        batch = current_batch()
        workspace = self._workspace(spec, batch.shares_prefixes)
        k_cache, v_cache = self.k_cache[spec.layer_id], self.v_cache[spec.layer_id]
        assert batch.plan is not None
        plan, *shared = batch.plan.split(self._plan_sizes(batch.num_decodes, batch.shares_prefixes))
        if batch.shares_prefixes:
            span_plan, first_partials = shared
            self._attend_shared(q, span_plan, first_partials, spec)
        decode_attention(
            q,
            k_cache,
            v_cache,
            out,
            plan=plan,
            workspace=workspace,
            shares_prefixes=batch.shares_prefixes,
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
        chunks: Chunks,
    ) -> None:
        batch, sequences = current_batch(), chunks.every
        if chunks.dense and fresh_prefill.usable(spec, q.dtype, q.device):
            for group in chunks.dense:
                fresh_prefill.attend_group(q, k, v, out, group, spec.scale)
            sequences = chunks.others
        if not len(sequences):
            return
        tile = ExtendTile.choose(spec.head_dim, q.element_size(), self._chip.shared_memory)
        plan = chunks.tile_plan(batch, sequences, tile.tokens(spec.num_heads // spec.num_kv_heads))
        shared = None
        if chunks.shared is not None:
            workspace, first_partials = self._workspace(spec, True), chunks.shared.first_partials
            shared = SharedPartials(workspace.outs, workspace.lse, first_partials)
            self._attend_shared(q, chunks.shared.plan, first_partials, spec)
        extend_attention(
            q,
            k,
            v,
            self.k_cache[spec.layer_id],
            self.v_cache[spec.layer_id],
            out,
            plan=plan,
            query_starts=batch.query_starts,
            tile=tile,
            shared=shared,
            **_paging(batch),
            **_options(spec),
        )

    def _attend_shared(
        self,
        q: torch.Tensor,
        plan: torch.Tensor,
        first_partials: torch.Tensor,
        spec: AttentionSpec,
    ) -> None:
        """Leave what the queries see of shared spans in the workspace."""
        batch, workspace = current_batch(), self._workspace(spec, True)
        prefix_attention(
            q,
            self.k_cache[spec.layer_id],
            self.v_cache[spec.layer_id],
            workspace.outs,
            workspace.lse,
            plan=plan,
            first_partials=first_partials,
            rows=batch.rows,
            page_table=batch.page_table,
            positions=batch.positions,
            tile=self._prefix_tile(spec, q.element_size()),
            scale=spec.scale,
            sliding_window=spec.sliding_window,
            logit_soft_cap=spec.logit_soft_cap,
        )

    def _prefix_tile(self, spec: AttentionSpec, itemsize: int) -> ExtendTile:
        return ExtendTile.choose(spec.head_dim, itemsize, self._chip.shared_memory)

    def _workspace(self, spec: AttentionSpec, shares_prefixes: bool) -> DecodeWorkspace:
        """Shared by all layers of one shape, which run one after the other.

        Shared prefixes need far more room (134 MB for 8B), which nothing else takes.
        """
        key = (spec.num_heads, spec.head_dim, shares_prefixes)
        if key not in self._workspaces:
            self._workspaces[key] = DecodeWorkspace.allocate(
                self._split_target,
                spec.num_heads,
                spec.num_kv_heads,
                spec.head_dim,
                self.k_cache[0].device,
                _SHARED_PARTIALS if shares_prefixes else 0,
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
