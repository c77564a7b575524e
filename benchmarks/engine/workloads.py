"""What the offline benchmark asks: prompts of random tokens, and how a speed is taken from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .engines import OfflineEngine


@dataclass(frozen=True)
class Batch:
    """Prompts as token ids, and how many tokens each answer has; all are asked at once."""

    prompts: list[list[int]]
    output_lengths: list[int]
    temperature: float = 0.0

    @property
    def input_tokens(self) -> int:
        """Of all prompts."""
        return sum(map(len, self.prompts))

    @property
    def output_tokens(self) -> int:
        """Of all answers."""
        return sum(self.output_lengths)


@dataclass(frozen=True)
class Sizes:
    """Makes batches; `shrink` divides counts and lengths, for trying the benchmark out."""

    rng: np.random.Generator
    vocab_size: int
    shrink: int = 1

    def scaled(self, number: int) -> int:
        """`number` as it is to be used, at least 1."""
        return max(1, number // self.shrink)

    def prompt(self, length: int) -> list[int]:
        """`length` random tokens."""
        return self.rng.integers(0, self.vocab_size, self.scaled(length)).tolist()

    def equal(self, count: int, input_length: int, output_length: int) -> Batch:
        """`count` prompts of the same length."""
        count = self.scaled(count)
        prompts = [self.prompt(input_length) for _ in range(count)]
        return Batch(prompts, [self.scaled(output_length)] * count)

    def groups(
        self, count: int, members: int, *, shared_length: int, own_length: int, output_length: int
    ) -> Batch:
        """`count` groups of prompts that begin with the same `shared_length` tokens."""
        prompts = [
            prefix + self.prompt(own_length)
            for prefix in [self.prompt(shared_length) for _ in range(self.scaled(count))]
            for _ in range(self.scaled(members))
        ]
        return Batch(prompts, [self.scaled(output_length)] * len(prompts))


def one_request(sizes: Sizes) -> Batch:
    """A short prompt and a long answer."""
    return Batch([sizes.prompt(128)], [sizes.scaled(512)])


def eight_requests(sizes: Sizes) -> Batch:
    """Eight such requests."""
    return sizes.equal(8, 128, 512)


def batch64(sizes: Sizes) -> Batch:
    """64 requests alike."""
    return sizes.equal(64, 1024, 256)


def prompts_alone(sizes: Sizes) -> Batch:
    """32 long prompts, one token of each answer."""
    return sizes.equal(32, 4096, 1)


def mixed(sizes: Sizes) -> Batch:
    """256 requests, inputs and outputs of 100 to 1024 tokens, sampled."""
    count = sizes.scaled(256)
    inputs, outputs = sizes.rng.integers(100, 1025, (2, count)).tolist()
    return Batch(
        [sizes.prompt(length) for length in inputs],
        [sizes.scaled(length) for length in outputs],
        temperature=0.6,
    )


def shared_prefixes(sizes: Sizes) -> Batch:
    """64 groups of 16 requests: 2048 tokens in common, 128 of one's own."""
    return sizes.groups(64, 16, shared_length=2048, own_length=128, output_length=256)


# ===== speeds: an engine and a batch, tokens per second =====


def seconds(engine: OfflineEngine, batch: Batch) -> float:
    """From the question to the last answer. Raises RuntimeError if an answer is cut short."""
    started = time.perf_counter()
    made = engine.generate(batch.prompts, batch.output_lengths, batch.temperature)
    elapsed = time.perf_counter() - started
    if made != batch.output_tokens:
        raise RuntimeError(f"{engine.name} made {made} tokens instead of {batch.output_tokens}")
    return elapsed


def output_speed(engine: OfflineEngine, batch: Batch) -> float:
    """Generated tokens over the whole time, prefill included."""
    return batch.output_tokens / seconds(engine, batch)


def input_speed(engine: OfflineEngine, batch: Batch) -> float:
    """Prompt tokens over the whole time."""
    return batch.input_tokens / seconds(engine, batch)


def total_speed(engine: OfflineEngine, batch: Batch) -> float:
    """Prompt and generated tokens, cached ones too, over the whole time."""
    return (batch.input_tokens + batch.output_tokens) / seconds(engine, batch)


def decode_speed(engine: OfflineEngine, batch: Batch) -> float:
    """Tokens after the first: the time of answers of one token is taken off."""
    first = Batch(batch.prompts, [1] * len(batch.prompts), batch.temperature)
    until_first = seconds(engine, first)
    tokens = batch.output_tokens - first.output_tokens
    return tokens / (seconds(engine, batch) - until_first)


@dataclass(frozen=True)
class Workload:
    """`make` gives the batch of a repetition, `speed` runs it; `prefix_cache` says if it is on."""

    what: str
    unit: str
    make: Callable[[Sizes], Batch]
    speed: Callable[[OfflineEngine, Batch], float]
    prefix_cache: bool = False


WORKLOADS = {
    "one": Workload("1 request, decode", "output tokens/s", one_request, decode_speed),
    "eight": Workload("8 requests, decode", "output tokens/s", eight_requests, decode_speed),
    "batch64": Workload(
        "64 x (1024 -> 256)",
        "output tokens/s",
        batch64,
        output_speed,
    ),
    "prefill": Workload(
        "32 x 4096, prefill only",
        "input tokens/s",
        prompts_alone,
        input_speed,
    ),
    "mixed256": Workload(
        "256 requests, in and out 100-1024, temperature 0.6", "output tokens/s", mixed, output_speed
    ),
    "shared": Workload(
        "64 groups x 16: shared 2048 + own 128 -> 256",
        "total tokens/s",
        shared_prefixes,
        total_speed,
        prefix_cache=True,
    ),
}
# Not a workload: what it takes until an engine can be asked, in a process of its own.
START = "start"
