"""One layer's decode attention, as a step of the engine has it: planned, uploaded, in a graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from worker.attention.base import AttentionSpec, HostPlan, forward_context
from worker.attention.batch import ForwardBatch
from worker.attention.triton import TritonBackend
from worker.models.config import ModelConfig
from worker.runtime.device import choose_dtype, choose_kv_dtype

_CALLS_IN_A_GRAPH = 8
_MEASURED_SECONDS = 0.1
_PLANS = 20


@dataclass(frozen=True)
class Groups:
    """Decoding sequences whose first `shared` tokens are the same for `members` that stand side by
    side; each has half to one and a half times `own` tokens of its own behind them.
    """

    sequences: int
    members: int
    shared: int
    own: int

    @property
    def seq_lens(self) -> np.ndarray:
        """[sequences] int32, the same every time."""
        rng = np.random.default_rng(0)
        own = rng.integers(self.own // 2, 3 * self.own // 2, self.sequences, endpoint=True)
        return (self.shared + np.maximum(own, 1)).astype(np.int32)

    @property
    def shared_lens(self) -> np.ndarray:
        """[sequences] int32, with the sequence before each."""
        begins_group = np.arange(self.sequences) % self.members == 0
        return np.where(begins_group, 0, self.shared).astype(np.int32)

    @property
    def distinct_tokens(self) -> int:
        """The fewest that a step can read."""
        return int((self.seq_lens - self.shared_lens).sum())

    def page_table(self) -> np.ndarray:
        """[sequences, longest] int32: prompts in one piece, generated tokens in turns, as slots of
        an empty cache are given out.
        """
        seq_lens = self.seq_lens
        table = np.zeros((self.sequences, int(seq_lens.max())), dtype=np.int32)
        prompt = self.shared + self.own // 2
        used = 0
        for s, length in enumerate(seq_lens.tolist()):
            first = self.shared if s % self.members else 0
            table[s, :first] = table[s - 1, :first]
            end = min(prompt, length)
            table[s, first:end] = np.arange(used, used + end - first)
            used += end - first
        generated = np.arange(table.shape[1]) >= prompt
        generated = generated & (np.arange(table.shape[1]) < seq_lens[:, None])
        turns = generated.T.nonzero()  # position by position
        table[turns[1], turns[0]] = used + np.arange(len(turns[0]))
        return table


@dataclass(frozen=True)
class PlanTimes:
    """Microseconds of the CPU for a step's plan: where only lengths have grown since the last one,
    where groups have changed, and where nothing is said to be shared.
    """

    grown: float
    changed: float
    unshared: float


class AttentionLayer:
    """A layer of `model`, decoding `groups` over a cache of random keys and values.

    `token_bytes` is what a cached token takes.
    """

    def __init__(
        self,
        model: ModelConfig,
        groups: Groups,
        device: torch.device,
        *,
        dtype: str = "auto",
        kv_cache_dtype: str = "auto",
    ) -> None:
        """The options are a worker's."""
        torch_dtype = choose_dtype(dtype, device)
        kv_dtype = choose_kv_dtype(kv_cache_dtype, torch_dtype)
        self._groups = groups
        self._spec = AttentionSpec(
            0, model.num_heads, model.num_kv_heads, model.head_dim, model.head_dim**-0.5
        )
        self._device = device
        shape = (groups.distinct_tokens + 1, model.num_kv_heads, model.head_dim)
        random = partial(torch.randn, dtype=torch_dtype, device=device)
        k_cache, v_cache = (random(shape).to(kv_dtype) for _ in range(2))
        self._backend = TritonBackend([k_cache], [v_cache])
        self._backend.prepare([self._spec], torch_dtype)
        self._page_table = torch.from_numpy(groups.page_table()).to(device)
        self._q = random(groups.sequences, model.num_heads, model.head_dim)
        self._k, self._v = random(2, groups.sequences, model.num_kv_heads, model.head_dim)
        self.token_bytes = 2 * k_cache[0].nbytes

    def plan(self, shares: bool) -> HostPlan:
        """The plan of a step; with `shares` it is told what sequences share."""
        return self._plan(self._groups.seq_lens, self._groups.shared_lens if shares else None)

    def tokens_read(self, plan: HostPlan) -> int:
        """How many cached tokens the layer reads by `plan`, for each KV head."""
        seq_lens = self._groups.seq_lens
        if not plan.shares_prefixes:
            return int(seq_lens.sum())
        return self._backend.tokens_read(plan, seq_lens, len(seq_lens))

    def _plan(self, seq_lens: np.ndarray, shared_lens: np.ndarray | None) -> HostPlan:
        count = len(seq_lens)
        plan = self._backend.plan_host(
            seq_lens, np.ones_like(seq_lens), count, padded=count, shared_lens=shared_lens
        )
        assert plan is not None
        return plan

    def plan_times(self) -> PlanTimes:
        """Medians."""
        seq_lens, shared_lens = self._groups.seq_lens, self._groups.shared_lens
        other = shared_lens.copy()
        other[-1] //= 2
        grown, changed, unshared = [], [], []
        for i in range(_PLANS):
            longer = seq_lens + i
            self._plan(longer, other)
            changed.append(_seconds(partial(self._plan, longer, shared_lens)))
            grown.append(_seconds(partial(self._plan, longer + 1, shared_lens)))
            unshared.append(_seconds(partial(self._plan, longer, None)))
        return PlanTimes(*(1e6 * statistics.median(each) for each in (grown, changed, unshared)))

    def attend(self, plan: HostPlan) -> Callable[[], torch.Tensor]:
        """Computes the layer by `plan`: [sequences, heads, head_dim]."""
        batch = self._batch(plan)
        self._backend.plan(batch)

        def call() -> torch.Tensor:
            with forward_context(self._backend, batch):
                return self._backend.attend(self._q, self._k, self._v, self._spec)

        return call

    def _batch(self, plan: HostPlan) -> ForwardBatch:
        groups, device = self._groups, self._device
        count, seq_lens = groups.sequences, groups.seq_lens
        lengths = torch.from_numpy(seq_lens).to(device)
        numbers = torch.arange(count + 1, dtype=torch.int32, device=device)
        last = self._page_table.gather(1, lengths[:, None].long() - 1)[:, 0]
        return ForwardBatch(
            input_ids=numbers[:count],
            positions=lengths - 1,
            out_slots=last,
            rows=numbers[:count],
            seq_lens_device=lengths,
            query_starts=numbers,
            page_table=self._page_table,
            seq_lens=seq_lens,
            query_lens=np.ones_like(seq_lens),
            num_decodes=count,
            plan=torch.from_numpy(plan.words).to(device),
            shared_lens=groups.shared_lens,
            shares_prefixes=plan.shares_prefixes,
            captured=device.type == "cuda",
        )

    def microseconds(self, plan: HostPlan) -> float:
        """Of one call, from a CUDA graph of several; on a CPU, of a call as it is."""
        call = self.attend(plan)
        call()
        if self._device.type != "cuda":
            return 1e6 * _seconds(call)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(_CALLS_IN_A_GRAPH):
                call()
        replay = _device_milliseconds(graph.replay, 1)
        replays = max(3, int(1e3 * _MEASURED_SECONDS / replay))
        return 1e3 * _device_milliseconds(graph.replay, replays) / _CALLS_IN_A_GRAPH


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _device_milliseconds(call: Callable[[], object], times: int) -> float:
    """Of one call, by the device's clock, after one that is not measured."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times
