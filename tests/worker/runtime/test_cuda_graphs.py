"""Steps find the graph of their size and kind, padded, with a plan made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from worker.attention.base import AttentionBackend, AttentionSpec, HostPlan, forward_context
from worker.attention.batch import ForwardBatch
from worker.runtime import cuda_graphs
from worker.runtime.batches import BatchBuilder
from worker.runtime.cuda_graphs import DecodeGraphs, graph_batch_sizes, sharing_batch_sizes
from worker.runtime.step_input import StepInput

from ..triton_interpreter import interpret_kernels
from .cpu_graphs import CpuUploader, Recorder

ROWS, COLUMNS = 70, 128
FORCED = 20  # tokens at most
SPARE_SLOT = 9999
EXAMPLE_TOKENS = 100  # less than the page table has


class PlanningBackend(AttentionBackend):
    """Shares prefixes from 3 sequences on, where they have 20 tokens in common.

    A plan's words: for how many sequences it is, with which padding, and what they share.
    """

    supports_graphs: ClassVar[bool] = True
    shares_prefixes: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__([], [])
        self.plans = 0

    def plan_size(self, max_sequences: int, shares_prefixes: bool = False) -> int:
        return 2 + shares_prefixes * max_sequences

    def plan_host(self, seq_lens, query_lens, num_decodes, padded, shared_lens=None) -> HostPlan:
        self.plans += 1
        words = np.array([num_decodes, padded], dtype=np.int32)
        if shared_lens is None or num_decodes < 3 or shared_lens.max() < 20:
            return HostPlan(words)
        return HostPlan(np.concatenate((words, shared_lens)), shares_prefixes=True)

    def attend(self, q, k, v, spec) -> torch.Tensor:
        raise AssertionError("there are no layers")


class Device:
    """Graphs over a forward pass that shows what it was given."""

    def __init__(self, batch_sizes: Sequence[int], *, prefix_sharing: bool = True) -> None:
        self.backend, self.recorder = PlanningBackend(), Recorder()
        self.page_table = torch.zeros((ROWS + 1, COLUMNS), dtype=torch.int32)
        self.page_table[ROWS] = SPARE_SLOT
        self.next_tokens = torch.arange(1000, 1001 + ROWS + FORCED, dtype=torch.int32)
        self.batches: list[ForwardBatch] = []
        self.last_position = 0
        self.graphs = DecodeGraphs(
            self._forward,
            self.backend,
            self.page_table,
            self.next_tokens,
            CpuUploader(),  # pyright: ignore[reportArgumentType]
            batch_sizes=batch_sizes,
            prefix_sharing=prefix_sharing,
            example_tokens=EXAMPLE_TOKENS,
            spare_row=ROWS,
            spare_slot=SPARE_SLOT,
            record=self.recorder,
        )
        self.captured = [(len(batch.rows), batch.shares_prefixes) for batch in self.batches]
        self.backend.plans = 0

    def _forward(self, batch: ForwardBatch) -> torch.Tensor:
        """[sequences, 3]: tokens, and the slots of the first token and of this step's."""
        self.batches.append(batch)
        self.last_position = max(self.last_position, int(batch.positions.max()))
        table, rows = batch.page_table, batch.rows.long()
        return torch.stack(
            (batch.input_ids, table[rows, 0], table[rows, batch.positions.long()]), 1
        )

    def replay(self, step: StepInput) -> ForwardBatch:
        """Replays, checks what came out, and returns the graph's batch."""
        hidden, rows, seq_lens = self.graphs.replay(step)
        batch = self.batches[-1]
        assert rows.tolist() == step.rows.tolist()
        assert seq_lens.tolist() == step.seq_lens.tolist()
        firsts = self.page_table[rows.long(), 0]
        expected = (self.next_tokens[rows.long()], firsts, torch.from_numpy(step.out_slots))
        assert torch.equal(hidden, torch.stack(expected, 1))
        padding = batch.rows[len(rows) :]
        assert padding.eq(ROWS).all()
        assert batch.seq_lens_device[len(rows) :].eq(1).all()
        assert self.page_table[ROWS].eq(SPARE_SLOT).all()
        assert batch.plan is not None
        assert batch.plan[:2].tolist() == [len(rows), len(batch.rows)]
        if batch.shares_prefixes:
            assert step.shared_lens is not None
            assert batch.plan[2 : 2 + len(rows)].tolist() == step.shared_lens.tolist()
        return batch


def decode(count: int, shared: int | None = 0, length: int = 30) -> StepInput:
    """Each of `count` sequences shares `shared` tokens with the one before it."""
    rows = np.arange(count, dtype=np.int32)[::-1].copy()
    lens = np.full(count, shared or 0, dtype=np.int32)
    lens[:1] = 0
    return StepInput(
        rows=rows,
        seq_lens=np.full(count, length, dtype=np.int32) + rows % 7,
        query_lens=np.ones(count, dtype=np.int32),
        num_decodes=count,
        prompt_ids=np.empty(0, dtype=np.int32),
        out_slots=100 + rows,
        sampled=np.arange(count, dtype=np.int32),
        shared_lens=None if shared is None else lens,
    )


def forced(*lengths: int, decodes: int = 3, shared: int | None = 0) -> StepInput:
    """So many decodes, then chunks of these lengths; all begin behind 30 tokens. Nothing is drawn
    behind the first chunk.
    """
    count, tokens = decodes + len(lengths), sum(lengths)
    queries = np.array([1] * decodes + [*lengths], dtype=np.int32)
    return replace(
        decode(count, shared),
        seq_lens=30 + queries,
        query_lens=queries,
        num_decodes=decodes,
        prompt_ids=np.arange(500, 500 + tokens, dtype=np.int32),
        out_slots=np.arange(200, 200 + decodes + tokens, dtype=np.int32),
        sampled=np.delete(np.arange(count, dtype=np.int32), decodes),
        forced=True,
    )


def kind(batch: ForwardBatch) -> tuple[int, bool]:
    return len(batch.rows), batch.shares_prefixes


def test_both_kinds_are_captured_largest_first_and_each_is_warmed_up_once():
    device = Device([1, 2, 4, 24, 32, 50])
    assert device.captured == [
        (50, True), (50, False), (32, True), (32, False), (24, False),
        (4, True), (4, False), (2, False), (1, False),
    ]  # fmt: skip
    assert device.recorder.warmed_up == [True, True] + [False] * 7


def test_captures_stay_within_the_positions_that_the_model_knows():
    assert Device([4]).last_position == EXAMPLE_TOKENS - 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 23, 24, 25, 32, 33, 50])
def test_a_step_is_padded_to_the_next_size_of_its_kind(count):
    device = Device([1, 2, 4, 24, 32, 50])
    plain = min(size for size in (1, 2, 4, 24, 32, 50) if size >= count)
    sharing = min(size for size in (4, 32, 50) if size >= count)
    assert kind(device.replay(decode(count))) == (plain, False)
    assert kind(device.replay(decode(count, shared=None))) == (plain, False)
    shares = (sharing, True) if count >= 3 else (plain, False)
    assert kind(device.replay(decode(count, shared=20))) == shares
    assert kind(device.replay(decode(count, shared=8))) == (plain, False)


def test_a_plan_is_made_once_where_little_is_shared_and_where_much_is():
    device = Device([8, 16])
    for shared in (None, 0, 20):
        device.backend.plans = 0
        device.replay(decode(6, shared, length=40))
        assert device.backend.plans == 1
    device.backend.plans = 0
    device.replay(decode(16, shared=1, length=100))  # more than nothing, but less than counts
    assert device.backend.plans == 1


def test_without_prefix_sharing_there_is_one_kind():
    device = Device([2, 4, 8], prefix_sharing=False)
    assert device.captured == [(8, False), (4, False), (2, False)]
    assert kind(device.replay(decode(5, shared=25))) == (8, False)


def test_changes_of_the_page_table_are_there_before_a_replay():
    device = Device([4])
    changed = replace(
        decode(3),
        table_indices=np.array([0, COLUMNS, 2 * COLUMNS], dtype=np.int32),
        table_slots=np.array([7, 8, 9], dtype=np.int32),
    )
    device.replay(changed)
    assert device.page_table[:3, 0].tolist() == [7, 8, 9]


def test_only_decodes_of_no_more_than_the_largest_size_fit():
    graphs = Device([2, 4]).graphs
    assert graphs.fits(decode(4))
    assert not graphs.fits(decode(5))
    assert not graphs.fits(replace(decode(2), num_decodes=1))


@pytest.mark.parametrize("shared", [None, 0, 25])
@pytest.mark.parametrize(("decodes", "lengths"), [(3, [4, 1, 6]), (0, [2, 1]), (2, [5])])
def test_forced_tokens_decode_each_as_a_sequence_of_its_own(decodes, lengths, shared):
    device = Device([4, 8, 16])
    step = forced(*lengths, decodes=decodes, shared=shared)
    assert device.graphs.fits(step)
    hidden, rows, seq_lens = device.graphs.replay(step)
    assert rows.tolist() == step.rows[step.sampled].tolist()
    assert seq_lens.tolist() == step.seq_lens[step.sampled].tolist()
    batch = device.batches[-1]
    count = len(step.out_slots)
    tokens = [*(1000 + step.rows[:decodes]), *step.prompt_ids]
    assert batch.input_ids[:count].tolist() == tokens
    assert batch.positions[:count].tolist() == step.positions.tolist()
    assert hidden[:, 0].tolist() == [tokens[place] for place in step.last_tokens]
    assert hidden[:, 2].tolist() == step.out_slots[step.last_tokens].tolist()
    for row, position, slot in zip(
        np.repeat(step.rows, step.query_lens), step.positions, step.out_slots, strict=True
    ):
        assert device.page_table[row, position] == slot
    assert batch.shares_prefixes == (shared is not None and count >= 3)
    if batch.shares_prefixes:
        firsts = [0] + [shared] * (decodes + len(lengths) - 1)
        behind = [30] * (len(step.prompt_ids) - len(lengths))
        assert batch.plan is not None
        assert sorted(batch.plan[2 : 2 + count].tolist()) == sorted(firsts + behind)


def test_forced_tokens_that_are_too_many_or_not_all_that_is_wanted_do_not_fit(monkeypatch):
    graphs = Device([4, 40]).graphs
    assert graphs.fits(forced(17, 3))
    assert not graphs.fits(forced(17, 4))  # there is no room for their ids
    assert not graphs.fits(replace(forced(5), forced=False))
    assert not graphs.fits(replace(forced(5), state_rows=np.array([3], dtype=np.int32)))
    assert not Device([4]).graphs.fits(forced(2))
    monkeypatch.setattr(cuda_graphs, "MOST_FORCED_KEYS", 5 * 35)
    assert graphs.fits(forced(5))
    assert not graphs.fits(forced(6))


def test_sizes_for_shared_prefixes_are_few_and_hold_the_largest():
    sizes = sharing_batch_sizes(graph_batch_sizes(512))
    assert sizes == [2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512]
    assert sharing_batch_sizes(graph_batch_sizes(900))[-4:] == [640, 768, 896, 900]
    assert sharing_batch_sizes([1]) == []
    assert sharing_batch_sizes([1, 3]) == [3]


def test_both_kinds_compute_the_same_attention(monkeypatch):
    """Of our own kernels, in Triton's interpreter; two groups of three, beside one alone. Of forced
    tokens the same that a step without a graph computes.
    """
    interpret_kernels()
    from worker.attention import triton

    monkeypatch.setattr(triton, "_LAUNCH_BYTES", 0)  # so little shared pays
    generator = torch.Generator().manual_seed(0)
    spare_slot, spare_row = 700, 8
    cache = [torch.randn(spare_slot + 1, 2, 16, generator=generator) for _ in range(2)]
    queries = torch.randn(100, 4, 16, generator=generator)
    table = torch.full((spare_row + 1, 200), spare_slot, dtype=torch.int32)
    table[:spare_row] = torch.arange(spare_row * 80).view(-1, 80).repeat(1, 3)[:, :200]
    for leader in (0, 3):
        table[leader : leader + 3, :130] = table[leader, :130]
    backend = triton.TritonBackend(cache[:1], cache[1:])
    spec = AttentionSpec(0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
    backend.prepare([spec], torch.float32)
    kinds = []
    tokens = torch.arange(50, 69, dtype=torch.int32)

    def forward(batch: ForwardBatch) -> torch.Tensor:
        kinds.append(batch.shares_prefixes)
        with forward_context(backend, batch):
            q = queries[batch.input_ids]
            backend.write(q[:, :2], q[:, 2:], spec)
            return backend.attend(q, q[:, :2], q[:, 2:], spec)

    graphs = DecodeGraphs(
        forward,
        backend,
        table,
        tokens,
        CpuUploader(),  # pyright: ignore[reportArgumentType]
        batch_sizes=[4, 8, 16],
        prefix_sharing=True,
        example_tokens=200,
        spare_row=spare_row,
        spare_slot=spare_slot,
        record=Recorder(),
    )
    seq_lens = np.array([133, 150, 131, 160, 140, 135, 20], dtype=np.int32)
    step = replace(
        decode(7),
        rows=np.arange(7, dtype=np.int32),
        seq_lens=seq_lens,
        out_slots=table[torch.arange(7), torch.from_numpy(seq_lens - 1).long()].numpy(),
        shared_lens=np.array([0, 130, 130, 0, 130, 130, 0], dtype=np.int32),
    )
    shared = graphs.replay(step)[0].clone()
    alone = graphs.replay(replace(step, shared_lens=None))[0]
    assert kinds[-2:] == [True, False]
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)

    chunks = np.array([6, 3], dtype=np.int32)  # of the last two
    places = [(row, length - 1) for row, length in enumerate(seq_lens[:5])]
    places += [(5, 135 + i) for i in range(6)] + [(6, 20 + i) for i in range(3)]
    step = replace(
        step,
        seq_lens=np.concatenate((seq_lens[:5], seq_lens[5:] + chunks)),
        query_lens=np.concatenate((step.query_lens[:5], chunks)),
        num_decodes=5,
        prompt_ids=np.arange(80, 89, dtype=np.int32),
        out_slots=np.array([table[place] for place in places], dtype=np.int32),
        forced=True,
    )
    shared = graphs.replay(step)[0].clone()
    alone = graphs.replay(replace(step, shared_lens=None))[0].clone()
    assert kinds[-2:] == [True, False]
    batch, _, _ = BatchBuilder(backend, table, tokens, None).build(step)
    backend.plan(batch)
    without_graph = forward(batch)[torch.from_numpy(step.last_tokens).long()]
    for found in (shared, alone):
        torch.testing.assert_close(found, without_graph, atol=1e-5, rtol=1e-5)
