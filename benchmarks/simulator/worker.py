"""One simulated worker: continuous batching, chunked prefill, a KV pool with an LRU prefix cache.

A step takes prompts up to the chunk size, first come first served, and one token of every running
answer. Steps without prompts are not simulated one by one: the time to the next answer's end is
computed, and cut short at a step's boundary when a request arrives.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .cache import PrefixCache
from .traces import Request


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker can do. The defaults are about an 8B model on one H200, its KV in fp8."""

    prefill_tokens_per_second: float = 35_000.0
    attention_doubles_at: float = 32_000.0
    """Position in a prompt at which a token costs twice as much as at its beginning."""
    decode_seconds: float = 0.006
    """One decode step; `decode_seconds_per_stream` is added for every running answer."""
    decode_seconds_per_stream: float = 0.00008
    step_overhead_seconds: float = 0.001
    chunk_tokens: int = 8192
    kv_tokens: int = 1_000_000
    max_running: int = 256

    def prefill_seconds(self, begin: int, end: int) -> float:
        """Time to compute the tokens from `begin` to `end` of one prompt."""
        linear = end - begin
        attention = (end * end - begin * begin) / (2 * self.attention_doubles_at)
        return (linear + attention) / self.prefill_tokens_per_second

    def faster(self, factor: float) -> WorkerSpec:
        """The same worker on a machine that does everything `factor` times as fast."""
        return WorkerSpec(
            self.prefill_tokens_per_second * factor,
            self.attention_doubles_at,
            self.decode_seconds / factor,
            self.decode_seconds_per_stream / factor,
            self.step_overhead_seconds / factor,
            self.chunk_tokens,
            self.kv_tokens,
            self.max_running,
        )


@dataclass(eq=False)
class Job:
    """A request on its worker."""

    request: Request
    arrived: float
    ticket: object
    hit_blocks: int = 0
    computed: int = 0
    """Tokens of the prompt whose keys and values are there."""


@dataclass(frozen=True)
class Clock:
    """What a worker reports, and how it is woken up."""

    wake: Callable[[float, SimulatedWorker, int], None]
    first_token: Callable[[float, SimulatedWorker, Job], None]
    ended: Callable[[float, SimulatedWorker, Job], None]


@dataclass(eq=False)
class SimulatedWorker:
    spec: WorkerSpec
    block_tokens: int
    clock: Clock
    cache: PrefixCache = field(init=False)
    waiting: deque[Job] = field(default_factory=deque)
    prefilling: list[Job] = field(default_factory=list)
    running: list[tuple[int, int, Job]] = field(default_factory=list)
    """A heap of (step at which the answer ends, number, job)."""
    requests: int = 0
    prefilled_tokens: int = 0
    prefill_seconds: float = 0.0
    _steps: int = 0
    _reserved: int = 0
    """Tokens of the pool that running requests have, or will need, outside of the cache."""
    _computing: set[int] = field(default_factory=set)
    """Blocks of prompts that are being computed."""
    _wake_number: int = 0
    _chunk: list[tuple[Job, int]] = field(default_factory=list)
    _is_stepping: bool = False
    _decoding_since: float | None = None
    _number: int = 0

    def __post_init__(self) -> None:
        self.cache = PrefixCache()

    def arrive(self, now: float, job: Job) -> None:
        self.requests += 1
        self.waiting.append(job)
        if self._is_stepping:
            return
        if self._decoding_since is None:
            self._wake_at(now)
        else:
            # The step under way ends first.
            step = self._decode_seconds()
            done = math.ceil((now - self._decoding_since) / step - 1e-9)
            self._steps += done
            boundary = self._decoding_since + done * step
            self._decoding_since = None
            self._wake_at(max(now, boundary))

    def wake(self, now: float, number: int) -> None:
        """The end of a step, or the time to begin one; outdated calls do nothing."""
        if number != self._wake_number:
            return
        if self._is_stepping:
            self._is_stepping = False
            self._steps += 1
            self._finish_chunk(now)
        elif self._decoding_since is not None:
            self._steps = self.running[0][0]
            self._decoding_since = None
        while self.running and self.running[0][0] <= self._steps:
            self._end(now, heapq.heappop(self.running)[2])
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Begins a step with prompts, or decoding until an answer ends, or nothing."""
        self._admit()
        if self.prefilling:
            seconds = self.spec.step_overhead_seconds
            budget = self.spec.chunk_tokens
            self._chunk = []
            for job in self.prefilling:
                if budget <= 0:
                    break
                end = min(job.request.input_length, job.computed + budget)
                seconds += self.spec.prefill_seconds(job.computed, end)
                budget -= end - job.computed
                self._chunk.append((job, end))
            self.prefill_seconds += seconds
            if self.running:
                seconds += self._decode_seconds()
            self._is_stepping = True
            self._wake_at(now + seconds)
        elif self.running:
            self._decoding_since = now
            steps = self.running[0][0] - self._steps
            self._wake_at(now + steps * self._decode_seconds())

    def _admit(self) -> None:
        """Takes requests in, in turn, while the step has room and memory their whole answers.

        A prompt whose next block is just being computed for another request waits for it.
        """
        budget = self.spec.chunk_tokens - sum(
            job.request.input_length - job.computed for job in self.prefilling
        )
        passed: list[Job] = []
        while self.waiting and budget > 0 and len(passed) < self.spec.max_running:
            if len(self.running) + len(self.prefilling) >= self.spec.max_running:
                break
            job = self.waiting.popleft()
            blocks = self._full_blocks(job.request)
            hit = self.cache.match(blocks)
            if hit < len(blocks) and blocks[hit] in self._computing:
                passed.append(job)
                continue
            if hit * self.block_tokens >= job.request.input_length:
                hit -= 1
            if not self._reserve(job, blocks[:hit]):
                passed.append(job)
                break
            self._computing.update(blocks[hit:])
            self.prefilling.append(job)
            budget -= job.request.input_length - job.computed
        self.waiting.extendleft(reversed(passed))

    def _reserve(self, job: Job, hit: Sequence[int]) -> bool:
        """Takes the memory that the request needs for its whole answer, if it is there."""
        computed = len(hit) * self.block_tokens
        fresh = job.request.input_length - computed + job.request.output_length
        self.cache.pin(hit)
        in_use = self.cache.pinned * self.block_tokens + self._reserved
        if in_use + fresh > self.spec.kv_tokens and (self.running or self.prefilling):
            self.cache.unpin(hit)
            return False
        job.hit_blocks, job.computed = len(hit), computed
        self._reserved += fresh
        self._make_room()
        return True

    def _finish_chunk(self, now: float) -> None:
        for job, end in self._chunk:
            self.prefilled_tokens += end - job.computed
            job.computed = end
            if end < job.request.input_length:
                continue
            self.prefilling.remove(job)
            blocks = self._full_blocks(job.request)
            own = blocks[job.hit_blocks :]
            self._computing.difference_update(own)
            self._reserved -= len(own) * self.block_tokens
            self.cache.insert(blocks)
            self.cache.pin(own)
            self._make_room()
            self.clock.first_token(now, self, job)
            self._number += 1
            end_step = self._steps + max(0, job.request.output_length - 1)
            heapq.heappush(self.running, (end_step, self._number, job))

    def _end(self, now: float, job: Job) -> None:
        blocks = self._full_blocks(job.request)
        self.cache.unpin(blocks)
        rest = job.request.input_length - len(blocks) * self.block_tokens
        self._reserved -= rest + job.request.output_length
        self.clock.ended(now, self, job)

    def _make_room(self) -> None:
        room = (self.spec.kv_tokens - self._reserved) // self.block_tokens
        self.cache.evict_down_to(max(0, room))

    def _full_blocks(self, request: Request) -> Sequence[int]:
        return request.blocks[: request.input_length // self.block_tokens]

    def _decode_seconds(self) -> float:
        spec = self.spec
        return spec.decode_seconds + spec.decode_seconds_per_stream * len(self.running)

    def _wake_at(self, when: float) -> None:
        self._wake_number += 1
        self.clock.wake(when, self, self._wake_number)
