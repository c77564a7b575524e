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
from worker.runtime.device import choose_dtype, choose_kv_dtype

_CALLS_IN_A_GRAPH = 8
_MEASURED_SECONDS = 0.1
_PLANS = 20


@dataclass(frozen=True)
class Decoding:
    """Sequences that decode, those with common prefixes side by side.

    page_table: [sequences, longest] int32, the slots of each
    seq_lens, shared_lens: [sequences] int32, as in `ForwardBatch`
    """

    page_table: np.ndarray
    seq_lens: np.ndarray
    shared_lens: np.ndarray

    @property
    def distinct_tokens(self) -> int:
        """The fewest that a step can read."""
        return int((self.seq_lens - self.shared_lens).sum())


@dataclass(frozen=True)
class Groups:
    """Sequences whose first `shared` tokens are the same for `members` that stand side by side;
    each has half to one and a half times `own` tokens of its own behind them.
    """

    sequences: int
    members: int
    shared: int
    own: int

    def decoding(self) -> Decoding:
        """The same every time. Prompts lie in one piece, generated tokens in turns, as slots of an
        empty cache are given out.
        """
        rng = np.random.default_rng(0)
        own = rng.integers(self.own // 2, 3 * self.own // 2, self.sequences, endpoint=True)
        seq_lens = (self.shared + np.maximum(own, 1)).astype(np.int32)
        begins_group = np.arange(self.sequences) % self.members == 0
        shared_lens = np.where(begins_group, 0, self.shared).astype(np.int32)
        table = np.zeros((self.sequences, int(seq_lens.max())), dtype=np.int32)
        prompt = self.shared + self.own // 2
        used = 0
        for s, (end, first) in enumerate(zip(seq_lens.tolist(), shared_lens.tolist(), strict=True)):
            end = min(prompt, end)
            table[s, :first] = table[s - 1, :first]
            table[s, first:end] = np.arange(used, used + end - first)
            used += end - first
        position = np.arange(table.shape[1])
        generated = (position >= prompt) & (position < seq_lens[:, None])
        turns = generated.T.nonzero()  # position by position
        table[turns[1], turns[0]] = used + np.arange(len(turns[0]))
        return Decoding(table, seq_lens, shared_lens)


@dataclass(frozen=True)
class PlanTimes:
    """Microseconds of the CPU for a step's plan: where only lengths have grown since the last one,
    where groups have changed, and where nothing is said to be shared.
    """

    grown: float
    changed: float
    unshared: float


class AttentionLayer:
    """A layer that decodes, over a cache of random keys and values.

    k_cache, v_cache: [slots, kv_heads, head_dim]; q: [sequences, heads, head_dim]
    token_bytes: what a cached token takes
    """

    def __init__(
        self,
        spec: AttentionSpec,
        decoding: Decoding,
        device: torch.device,
        *,
        dtype: str = "auto",
        kv_cache_dtype: str = "auto",
    ) -> None:
        """The options are a worker's."""
        torch_dtype = choose_dtype(dtype, device)
        kv_dtype = choose_kv_dtype(kv_cache_dtype, torch_dtype)
        self._spec = spec
        self._decoding = decoding
        self._device = device
        random = partial(torch.randn, dtype=torch_dtype, device=device)
        shape = (int(decoding.page_table.max()) + 1, spec.num_kv_heads, spec.head_dim)
        self.k_cache, self.v_cache = (random(shape).to(kv_dtype) for _ in range(2))
        self._backend = TritonBackend([self.k_cache], [self.v_cache])
        self._backend.prepare([spec], torch_dtype)
        count = len(decoding.seq_lens)
        self.q = random(count, spec.num_heads, spec.head_dim)
        self._k, self._v = random(2, count, *shape[1:])
        self.token_bytes = 2 * self.k_cache[0].nbytes

    def plan(self, shares: bool) -> HostPlan:
        """The plan of a step; with `shares` it is told what sequences share."""
        step = self._decoding
        return self._plan(step.seq_lens, step.shared_lens if shares else None)

    def keys_read(self, plan: HostPlan) -> int:
        """How many keys the layer reads from memory by `plan`, for each KV head."""
        seq_lens = self._decoding.seq_lens
        return self._backend.keys_read(plan, seq_lens, len(seq_lens))

    def _plan(self, seq_lens: np.ndarray, shared_lens: np.ndarray | None) -> HostPlan:
        count = len(seq_lens)
        plan = self._backend.plan_host(
            seq_lens, np.ones_like(seq_lens), count, padded=count, shared_lens=shared_lens
        )
        assert plan is not None
        return plan

    def plan_times(self) -> PlanTimes:
        """Medians."""
        seq_lens, shared_lens = self._decoding.seq_lens, self._decoding.shared_lens
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
                return self._backend.attend(self.q, self._k, self._v, self._spec)

        return call

    def _batch(self, plan: HostPlan) -> ForwardBatch:
        step, device = self._decoding, self._device
        count = len(step.seq_lens)
        numbers = torch.arange(count + 1, dtype=torch.int32, device=device)
        last = step.page_table[np.arange(count), step.seq_lens - 1]
        return ForwardBatch(
            input_ids=numbers[:count],
            positions=torch.from_numpy(step.seq_lens - 1).to(device),
            out_slots=torch.from_numpy(last).to(device),
            rows=numbers[:count],
            seq_lens_device=torch.from_numpy(step.seq_lens).to(device),
            query_starts=numbers,
            page_table=torch.from_numpy(step.page_table).to(device),
            seq_lens=step.seq_lens,
            query_lens=np.ones_like(step.seq_lens),
            num_decodes=count,
            plan=torch.from_numpy(plan.words).to(device),
            shared_lens=step.shared_lens,
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
