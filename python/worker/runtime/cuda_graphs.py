"""Decode steps as CUDA graphs: captured once for each of a list of batch sizes, then replayed."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..attention.base import AttentionBackend
from ..attention.batch import ForwardBatch
from .batches import Uploader
from .step_input import StepInput

Forward = Callable[[ForwardBatch], torch.Tensor]


def graph_batch_sizes(max_batch_size: int) -> list[int]:
    """Batch sizes to capture, ascending: dense where padding costs most, up to the maximum."""
    sizes = [1, 2, 4, *range(8, 129, 8), *range(144, 257, 16), *range(288, 513, 32)]
    sizes += range(576, max_batch_size + 64, 64)
    return [size for size in sizes if size < max_batch_size] + [max_batch_size]


@dataclass(frozen=True)
class _Graph:
    """One batch size: its graph, the batch whose tensors it reads, and the hidden states it writes.

    The batch's rows, lengths, slots and plan are parts of the input buffer that all graphs share.
    """

    graph: torch.cuda.CUDAGraph
    batch: ForwardBatch
    hidden: torch.Tensor


class DecodeGraphs:
    """All graphs share one input buffer and, being captured largest first, one pool of memory.

    A batch is padded to the next size: a padding row has one token, which lies in the spare slot.
    """

    def __init__(
        self,
        forward: Forward,
        backend: AttentionBackend,
        page_table: torch.Tensor,
        next_tokens: torch.Tensor,
        uploader: Uploader,
        *,
        batch_sizes: Sequence[int],
        spare_row: int,
        spare_slot: int,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        self._backend = backend
        self._uploader = uploader
        self._page_table = page_table
        self._next_tokens = next_tokens
        self._spare_row = spare_row
        self._spare_slot = spare_slot
        self._sizes = sorted(batch_sizes)
        largest = self._sizes[-1]
        words = 3 * largest + max(backend.plan_size(size) for size in self._sizes)
        self._inputs = torch.empty(words, dtype=torch.int32, device=page_table.device)
        self._graphs: dict[int, _Graph] = {}
        pool = torch.cuda.graph_pool_handle()
        for done, size in enumerate(reversed(self._sizes)):
            progress(done / len(self._sizes))
            self._graphs[size] = self._capture(forward, size, pool, warm_up=done == 0)

    def fits(self, step: StepInput) -> bool:
        """Whether `step` can be replayed."""
        return step.is_decode and len(step.rows) <= self._sizes[-1]

    def replay(self, step: StepInput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Launch `step`; returns the hidden states [sequences, hidden] after the final norm, the
        page table's rows and the lengths, [sequences] each. The next replay overwrites them.
        """
        count = len(step.rows)
        graph = self._graphs[self._sizes[bisect.bisect_left(self._sizes, count)]]
        self._fill(graph.batch, step.rows, step.seq_lens, step.out_slots)
        self._backend.plan(graph.batch)
        graph.graph.replay()
        batch = graph.batch
        return graph.hidden[:count], batch.rows[:count], batch.seq_lens_device[:count]

    def _fill(
        self,
        batch: ForwardBatch,
        rows: np.ndarray,
        seq_lens: np.ndarray,
        out_slots: np.ndarray,
    ) -> None:
        size, count = len(batch.rows), len(rows)
        inputs = np.empty((3, size), dtype=np.int32)
        inputs[0, :count], inputs[0, count:] = rows, self._spare_row
        inputs[1, :count], inputs[1, count:] = seq_lens, 1
        inputs[2, :count], inputs[2, count:] = out_slots, self._spare_slot
        arrays = [inputs.reshape(-1)]
        plan = self._backend.plan_host(seq_lens, np.ones_like(seq_lens), count, padded=size)
        if plan is not None:
            assert batch.plan is not None
            assert len(plan.words) <= len(batch.plan)
            arrays.append(plan.words)
        self._uploader.upload(arrays, into=self._inputs)

    def _capture(self, forward: Forward, size: int, pool: Any, *, warm_up: bool) -> _Graph:
        plan_words = self._backend.plan_size(size)
        device = self._page_table.device
        parts = self._inputs[: 3 * size + plan_words].split([size, size, size, plan_words])
        rows, seq_lens, out_slots, plan = parts
        batch = ForwardBatch(
            input_ids=torch.empty(size, dtype=torch.int32, device=device),
            positions=torch.empty(size, dtype=torch.int32, device=device),
            out_slots=out_slots,
            rows=rows,
            seq_lens_device=seq_lens,
            query_starts=torch.arange(size + 1, dtype=torch.int32, device=device),
            page_table=self._page_table,
            seq_lens=np.ones(size, dtype=np.int32),
            query_lens=np.ones(size, dtype=np.int32),
            num_decodes=size,
            plan=plan if plan_words else None,
            captured=True,
        )
        none = np.empty(0, dtype=np.int32)
        self._fill(batch, none, none, none)
        self._backend.plan(batch)
        graph = torch.cuda.CUDAGraph()

        def body() -> torch.Tensor:
            torch.index_select(self._next_tokens, 0, rows, out=batch.input_ids)
            torch.sub(seq_lens, 1, out=batch.positions)
            self._page_table.index_put_((rows, batch.positions), out_slots)
            return forward(batch)

        if warm_up:  # libraries set themselves up at their first call, which no graph may hold
            body()
            torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool):
            hidden = body()
        return _Graph(graph, batch, hidden)
