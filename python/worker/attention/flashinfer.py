"""Attention by FlashInfer's kernels, for NVIDIA GPUs. Not the default: they are compiled at start.

FlashInfer compiles a module for each combination of dtypes, head size, sliding window or none, and
soft cap or none, the first time that a machine needs it: FA2, which serves chunks and grouped
decodes alike, takes ten seconds on sixteen cores, FA3 over five minutes. Where its package of
prebuilt kernels is installed, nothing is compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch

from ..kernels.page_indices import page_indices
from .base import AttentionBackend, AttentionSpec, HostPlan, UnsupportedAttention
from .batch import ForwardBatch

_WORKSPACE_BYTES = 384 << 20  # partial results of split sequences
_PLAN_BYTES = 8 << 20
# From this many query heads a KV head on, decode is faster on tensor cores.
_TENSOR_CORE_GROUP = 4


@dataclass(frozen=True)
class _Shape:
    """What FlashInfer plans for: layers that agree in it share a plan."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    soft_cap: float | None

    @classmethod
    def of(cls, spec: AttentionSpec) -> _Shape:
        return cls(
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.scale,
            spec.sliding_window,
            spec.logit_soft_cap,
        )


class FlashInferBackend(AttentionBackend):
    """Pages of one token, so that a slot is a page.

    Under a CUDA graph, one wrapper for each batch size and shape plans anew before each replay,
    into the memory that its captured kernels read. `prefill_kernels` are those of steps without a
    graph: "fa2" or "fa3".
    """

    supports_graphs: ClassVar[bool] = True

    def __init__(
        self,
        k_cache: list[torch.Tensor],
        v_cache: list[torch.Tensor],
        prefill_kernels: str = "fa2",
    ) -> None:
        super().__init__(k_cache, v_cache)
        self._flashinfer = _import_flashinfer()
        self._prefill_kernels = prefill_kernels
        self._device = k_cache[0].device
        self._workspace = self._bytes(_WORKSPACE_BYTES)
        self._last_page = torch.ones(0, dtype=torch.int32)  # tokens in each one's last page: one
        self._shapes: dict[int, _Shape] = {}  # by layer
        self._windows: list[int | None] = []
        self._chunks: dict[_Shape, Any] = {}
        self._decodes: dict[tuple[_Shape, int], Any] = {}
        self._plan_memory: dict[_Shape, torch.Tensor] = {}
        self._graph_indices: dict[int | None, torch.Tensor] = {}
        self._planned: dict[_Shape, Any] = {}
        self._starts = np.zeros((0, 1), dtype=np.int32)
        self._uploaded = torch.cuda.Event() if self._device.type == "cuda" else None

    def prepare(self, specs: Sequence[AttentionSpec], dtype: torch.dtype) -> None:
        cache_dtype = self.k_cache[0].dtype
        if any(spec.sinks is not None for spec in specs):
            raise UnsupportedAttention(
                "the flashinfer attention backend has no attention sinks; use triton"
            )
        if self._prefill_kernels == "fa3" and cache_dtype != dtype:
            raise UnsupportedAttention(
                f"FlashInfer's FA3 reads no {cache_dtype} cache with {dtype} queries; use the "
                "attention backend flashinfer, which is FA2"
            )
        self._dtypes = {"q_data_type": dtype, "kv_data_type": cache_dtype}
        self._shapes = {spec.layer_id: _Shape.of(spec) for spec in specs}
        self._windows = list(dict.fromkeys(spec.sliding_window for spec in specs))
        for shape in dict.fromkeys(self._shapes.values()):
            self._plan_memory[shape] = self._bytes(_PLAN_BYTES)
            self._chunks[shape] = self._flashinfer.BatchPrefillWithPagedKVCacheWrapper(
                self._workspace, "NHD", backend=self._prefill_kernels
            )

    def plan_size(self, max_sequences: int, shares_prefixes: bool = False) -> int:
        return len(self._windows) * (max_sequences + 1)

    def plan_host(
        self,
        seq_lens: np.ndarray,
        query_lens: np.ndarray,
        num_decodes: int,
        padded: int,
        shared_lens: np.ndarray | None = None,
    ) -> HostPlan:
        """Where each sequence's part of the page indices starts: [windows, sequences + 1].

        Of a sequence, the tokens that the window of its first query in the step sees are read.
        """
        sequences = max(padded, len(seq_lens))
        counts = np.ones((len(self._windows), sequences), dtype=np.int32)
        for row, window in zip(counts, self._windows, strict=True):
            row[: len(seq_lens)] = seq_lens
            if window is not None:
                visible = query_lens + (window - 1)
                np.minimum(seq_lens, visible, out=row[: len(seq_lens)])
        self._starts = np.zeros((len(self._windows), sequences + 1), dtype=np.int32)
        np.cumsum(counts, axis=1, out=self._starts[:, 1:])
        return HostPlan(self._starts.reshape(-1))

    def plan(self, batch: ForwardBatch) -> None:
        assert batch.plan is not None
        if self._uploaded is not None:
            # FlashInfer uploads its plans from host memory that the next ones overwrite.
            self._uploaded.synchronize()
        on_device = batch.plan.view(self._starts.shape)
        for window, starts, starts_on_device in zip(
            self._windows, self._starts, on_device, strict=True
        ):
            indices = self._page_indices(batch, window, starts, starts_on_device)
            for shape in self._chunks:
                if shape.window == window:
                    plan = self._plan_captured if batch.captured else self._plan_chunks
                    self._planned[shape] = plan(batch, shape, starts, indices)
        if self._uploaded is not None:
            self._uploaded.record()

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        pages = (self.k_cache[spec.layer_id][:, None], self.v_cache[spec.layer_id][:, None])
        return self._planned[self._shapes[spec.layer_id]].run(q, pages)

    # ===== plans =====

    def _page_indices(
        self,
        batch: ForwardBatch,
        window: int | None,
        starts: np.ndarray,
        starts_on_device: torch.Tensor,
    ) -> torch.Tensor:
        """The slots that the step's queries see: [starts[-1]] int32.

        Under CUDA graphs they lie in memory that all of them share.
        """
        total = int(starts[-1])
        if batch.captured:
            if window not in self._graph_indices:  # the largest graph comes first
                columns = min(batch.page_table.shape[1], window or batch.page_table.shape[1])
                self._graph_indices[window] = self._integers(columns * (len(starts) - 1))
            indices = self._graph_indices[window][:total]
        else:
            indices = self._integers(total)
        page_indices(
            batch.page_table,
            batch.rows,
            batch.seq_lens_device,
            starts_on_device,
            indices,
            longest=int(np.diff(starts).max()),
        )
        return indices

    def _plan_chunks(
        self, batch: ForwardBatch, shape: _Shape, starts: np.ndarray, indices: torch.Tensor
    ) -> Any:
        """A step without a graph, be it of decodes, of chunks or of both."""
        wrapper = self._chunks[shape]
        query_starts = np.zeros_like(starts)
        np.cumsum(batch.query_lens, out=query_starts[1:])
        wrapper.plan(
            torch.from_numpy(query_starts),
            torch.from_numpy(starts),
            indices,
            self._ones(len(starts) - 1),
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            1,
            causal=True,
            sm_scale=shape.scale,
            window_left=-1 if shape.window is None else shape.window - 1,
            logits_soft_cap=shape.soft_cap,
            **self._dtypes,
        )
        return wrapper

    def _plan_captured(
        self, batch: ForwardBatch, shape: _Shape, starts: np.ndarray, indices: torch.Tensor
    ) -> Any:
        """Decodes in a graph. A window needs no mask: what it hides is not among the indices."""
        sequences = len(batch.rows)
        wrapper = self._decodes.get((shape, sequences))
        if wrapper is None:
            wrapper = self._decodes[shape, sequences] = self._decode_wrapper(shape, sequences)
        wrapper.plan(
            torch.from_numpy(starts),
            indices,
            self._ones(sequences),
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            1,
            sm_scale=shape.scale,
            logits_soft_cap=shape.soft_cap,
            **self._dtypes,
        )
        return wrapper

    def _decode_wrapper(self, shape: _Shape, sequences: int) -> Any:
        wrapper = self._flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=shape.num_heads >= _TENSOR_CORE_GROUP * shape.num_kv_heads,
            paged_kv_indptr_buffer=self._integers(sequences + 1),
            paged_kv_indices_buffer=self._graph_indices[shape.window],
            paged_kv_last_page_len_buffer=self._integers(sequences),
            backend="fa2",
        )
        # One graph runs at a time: all sizes share what their plans are uploaded to.
        wrapper.reset_workspace_buffer(self._workspace, self._plan_memory[shape])
        return wrapper

    def _ones(self, count: int) -> torch.Tensor:
        if len(self._last_page) < count:
            self._last_page = torch.ones(2 * count, dtype=torch.int32)
        return self._last_page[:count]

    def _bytes(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.uint8, device=self._device)

    def _integers(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int32, device=self._device)


def _import_flashinfer() -> ModuleType:
    try:
        return importlib.import_module("flashinfer")
    except ImportError as error:
        raise UnsupportedAttention(
            f"the attention backend flashinfer needs the package flashinfer-python ({error}); "
            "install radixfleet[gpu], or use triton"
        ) from None
