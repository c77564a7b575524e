"""Decode steps as CUDA graphs: captured once for each of a list of batch sizes, then replayed.

So are steps with forced tokens: each of them is computed as a sequence that decodes.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..attention.base import AttentionBackend, HostPlan
from ..attention.batch import ForwardBatch
from .batches import Uploader, write_page_table
from .step_input import StepInput

Forward = Callable[[ForwardBatch], torch.Tensor]

# Makes a graph of what a function launches, which returns a tensor: how to replay it, and the
# tensor that a replay overwrites. With True the function is called once before.
Record = Callable[[Callable[[], torch.Tensor], bool], tuple[Callable[[], None], torch.Tensor]]

# Sizes up to 512 of which there is a graph for shared prefixes: padding costs less there, as a
# padding row reads nothing of a prefix.
_SHARING_SIZES = frozenset([2, 4, 8, 16, *range(32, 129, 32), *range(192, 513, 64)])

# How many numbers a graph reads of each sequence: its row, its length, the slot of its token, and
# where among `next_tokens` that token is.
_INPUTS = 4

# A plan for shared prefixes is made where they have at least this share of all tokens.
_LEAST_SHARE = 1 / 64

# A step has so many forced tokens at most, and these read so many keys where no plan shares them:
# that is sooner done than the launches of a step without a graph.
MOST_FORCED_TOKENS = 512
MOST_FORCED_KEYS = 1 << 17


def graph_batch_sizes(max_batch_size: int) -> list[int]:
    """Batch sizes to capture, ascending: dense where padding costs most, up to the maximum."""
    sizes = [1, 2, 4, *range(8, 129, 8), *range(144, 257, 16), *range(288, 513, 32)]
    sizes += range(576, max_batch_size + 64, 64)
    return [size for size in sizes if size < max_batch_size] + [max_batch_size]


def sharing_batch_sizes(batch_sizes: Sequence[int]) -> list[int]:
    """Those of `batch_sizes` to capture for shared prefixes, too: few of them, and the largest."""
    coarse = [s for s in batch_sizes if s in _SHARING_SIZES or (s > 512 and s % 128 == 0)]
    return sorted({*coarse, max(batch_sizes)} - {1})


@dataclass(frozen=True)
class _Graph:
    """A size and kind: how to replay it, the batch whose tensors it reads, and the hidden states
    that it writes.

    The batch's rows, lengths, slots and plan are parts of the input buffer that all graphs share.
    """

    replay: Callable[[], None]
    batch: ForwardBatch
    hidden: torch.Tensor


class DecodeGraphs:
    """All graphs share one input buffer and, being captured largest first, one pool of memory.

    A batch is padded to the next size: a padding row has one token, which lies in the spare slot.
    `next_tokens` has room for forced tokens behind the rows of the page table. With
    `prefix_sharing`, and a backend that can, there are graphs of a second kind, in which attention
    reads a shared prefix once; they are captured with sequences of `example_tokens`.
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
        prefix_sharing: bool,
        example_tokens: int,
        spare_row: int,
        spare_slot: int,
        progress: Callable[[float], None] = lambda fraction: None,
        record: Record | None = None,
    ) -> None:
        self._forward = forward
        self._backend = backend
        self._uploader = uploader
        self._page_table = page_table
        self._next_tokens = next_tokens
        self._forced_tokens = next_tokens[len(page_table) :]
        self._example_tokens = example_tokens
        self._spare_row = spare_row
        self._spare_slot = spare_slot
        wanted = [(size, False) for size in batch_sizes]
        if prefix_sharing and backend.shares_prefixes:
            wanted += [(size, True) for size in sharing_batch_sizes(batch_sizes)]
        words = _INPUTS * max(batch_sizes) + max(backend.plan_size(*key) for key in wanted)
        self._inputs = torch.empty(words, dtype=torch.int32, device=page_table.device)
        self._graphs: dict[tuple[int, bool], _Graph] = {}  # by size, and whether it shares prefixes
        record = record or _cuda_graphs()
        for done, key in enumerate(sorted(wanted, reverse=True)):
            progress(done / len(wanted))
            self._capture(*key, record)
        self._sizes = {
            kind: sorted(size for size, shares in self._graphs if shares == kind)
            for kind in (False, True)
        }

    def fits(self, step: StepInput) -> bool:
        """Whether `step` can be replayed."""
        if len(step.out_slots) > self._sizes[False][-1]:
            return False
        if step.is_decode:
            return True
        if not step.forced or step.prompt_scoring is not None or len(step.state_rows):
            return False
        if step.given is not None and len(step.given.tokens):
            return False
        chunks = slice(step.num_decodes, None)
        keys = int(step.seq_lens[chunks] @ step.query_lens[chunks])
        return keys <= MOST_FORCED_KEYS and len(step.prompt_ids) <= len(self._forced_tokens)

    def replay(self, step: StepInput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Launch `step`; returns the hidden states [sampled, hidden] after the final norm, the page
        table's rows and the lengths, [sampled] each. The next replay may overwrite them.
        """
        step = step.token_by_token()
        count = len(step.rows)
        changes, sampled = [step.table_indices, step.table_slots], None
        if len(step.prompt_ids):
            uploaded = self._uploader.upload([*changes, step.prompt_ids, step.sampled])
            indices, slots, forced, sampled = uploaded
            write_page_table(self._page_table, indices, slots)
            self._forced_tokens[: len(forced)] = forced
        elif len(step.table_indices):
            write_page_table(self._page_table, *self._uploader.upload(changes))
        graph, plan = self._choose(step)
        batch = graph.batch
        self._fill(batch, step, plan)
        self._backend.plan(batch)
        graph.replay()
        hidden, rows, seq_lens = (
            each[:count] if sampled is None else each.index_select(0, sampled)
            for each in (graph.hidden, batch.rows, batch.seq_lens_device)
        )
        return hidden, rows, seq_lens

    def _choose(self, step: StepInput) -> tuple[_Graph, HostPlan | None]:
        """The graph for `step`, and the plan to replay it with."""
        count = len(step.rows)
        size = self._padded(count, shares_prefixes=True) if _may_share(step) else None
        if size is not None:
            plan = self._plan(step, size, step.shared_lens)
            if plan is not None and plan.shares_prefixes:
                return self._graphs[size, True], plan
        size = self._padded(count, shares_prefixes=False)
        assert size is not None, "the step fits"
        return self._graphs[size, False], self._plan(step, size)

    def _padded(self, count: int, *, shares_prefixes: bool) -> int | None:
        """The least size of that kind with room for `count` sequences."""
        sizes = self._sizes[shares_prefixes]
        index = bisect.bisect_left(sizes, count)
        return sizes[index] if index < len(sizes) else None

    def _plan(
        self, step: StepInput, size: int, shared_lens: np.ndarray | None = None
    ) -> HostPlan | None:
        return self._backend.plan_host(
            step.seq_lens, step.query_lens, len(step.rows), padded=size, shared_lens=shared_lens
        )

    def _fill(self, batch: ForwardBatch, step: StepInput, plan: HostPlan | None) -> None:
        size, count = len(batch.rows), len(step.rows)
        inputs = np.empty((_INPUTS, size), dtype=np.int32)
        inputs[0, :count], inputs[0, count:] = step.rows, self._spare_row
        inputs[1, :count], inputs[1, count:] = step.seq_lens, 1
        inputs[2, :count], inputs[2, count:] = step.out_slots, self._spare_slot
        inputs[3] = inputs[0]
        forced = len(step.prompt_ids)
        inputs[3, count - forced : count] = len(self._page_table) + np.arange(forced)
        arrays = [inputs.reshape(-1)]
        if plan is not None:
            assert batch.plan is not None
            assert len(plan.words) <= len(batch.plan)
            assert plan.shares_prefixes == batch.shares_prefixes
            arrays.append(plan.words)
        self._uploader.upload(arrays, into=self._inputs)

    # ===== capture =====

    def _capture(self, size: int, shares_prefixes: bool, record: Record) -> None:
        """Add a graph, unless no prefix is worth sharing among so few sequences."""
        step = self._example(size, shares_prefixes)
        plan = self._plan(step, size, step.shared_lens)
        if shares_prefixes and not (plan is not None and plan.shares_prefixes):
            return
        batch, token_places = self._batch(size, shares_prefixes)
        self._fill(batch, step, plan)
        self._backend.plan(batch)

        def body() -> torch.Tensor:
            torch.index_select(self._next_tokens, 0, token_places, out=batch.input_ids)
            torch.sub(batch.seq_lens_device, 1, out=batch.positions)
            self._page_table.index_put_((batch.rows, batch.positions), batch.out_slots)
            return self._forward(batch)

        # Libraries set themselves up at their first call, which no graph may hold.
        is_first = all(kind != shares_prefixes for _, kind in self._graphs)
        replay, hidden = record(body, is_first)
        self._graphs[size, shares_prefixes] = _Graph(replay, batch, hidden)

    def _example(self, size: int, shares_prefixes: bool) -> StepInput:
        """A step in the spare slot: sequences of one token, or with a long prefix in common."""
        length = self._example_tokens if shares_prefixes else 1
        shared_lens = np.full(size, length - 1, dtype=np.int32)
        shared_lens[0] = 0
        return StepInput(
            rows=np.full(size, self._spare_row, dtype=np.int32),
            seq_lens=np.full(size, length, dtype=np.int32),
            query_lens=np.ones(size, dtype=np.int32),
            num_decodes=size,
            prompt_ids=np.empty(0, dtype=np.int32),
            out_slots=np.full(size, self._spare_slot, dtype=np.int32),
            sampled=np.arange(size, dtype=np.int32),
            shared_lens=shared_lens if shares_prefixes else None,
        )

    def _batch(self, size: int, shares_prefixes: bool) -> tuple[ForwardBatch, torch.Tensor]:
        """Tensors for a graph to read; the last ones are where its tokens are."""
        plan_words = self._backend.plan_size(size, shares_prefixes)
        device = self._page_table.device
        sizes = [size] * _INPUTS
        words = self._inputs[: sum(sizes) + plan_words]
        rows, seq_lens, out_slots, token_places, plan = words.split([*sizes, plan_words])
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
            shares_prefixes=shares_prefixes,
            captured=True,
        )
        return batch, token_places


def _may_share(step: StepInput) -> bool:
    """Whether so much is shared in `step` that a plan for it may be worth its making."""
    shared = step.shared_lens
    return shared is not None and int(shared.sum()) > _LEAST_SHARE * int(step.seq_lens.sum())


def _cuda_graphs() -> Record:
    """Records CUDA graphs, which have one pool of memory for what they compute in."""
    pool = torch.cuda.graph_pool_handle()

    def record(
        body: Callable[[], torch.Tensor], warm_up: bool
    ) -> tuple[Callable[[], None], torch.Tensor]:
        if warm_up:
            body()
            torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            out = body()
        return graph.replay, out

    return record
