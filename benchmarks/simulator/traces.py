"""Requests over time: read from a file, or made up.

A trace file has a JSON object a line, in the order of time, in the form of the Mooncake traces:
`timestamp` (milliseconds), `input_length` and `output_length` (tokens), and `hash_ids`, one id for
every 512 tokens of the prompt. Equal ids mean equal text, and equal text before it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Request:
    seconds: float
    """When it arrives."""
    input_length: int
    output_length: int
    blocks: tuple[int, ...]
    session: int | None = None
    """What perfect session placement keeps together."""


@dataclass(frozen=True)
class Trace:
    name: str
    requests: list[Request]
    block_tokens: int
    load: float
    """Share of the fleet's time that prefill takes when nothing is computed twice."""
    kv_tokens: int | None = None
    """Tokens that a worker's KV pool holds, where the trace is about that."""
    speed: float = 1.0
    """How many times as fast as the default the workers are."""

    @property
    def input_tokens(self) -> int:
        return sum(request.input_length for request in self.requests)

    def ideal_hits(self) -> list[int]:
        """For every request the tokens that one unbounded cache would have had."""
        seen: set[int] = set()
        hits = []
        for request in self.requests:
            full = request.blocks[: request.input_length // self.block_tokens]
            count = sum(1 for _ in itertools.takewhile(seen.__contains__, full))
            hits.append(min(count * self.block_tokens, request.input_length - 1))
            seen.update(full)
        return hits

    def in_seconds(self, duration: float) -> Trace:
        """The same requests, evenly faster or slower, over `duration` seconds."""
        factor = duration / max(self.requests[-1].seconds, 1e-9)
        scaled = [replace(request, seconds=request.seconds * factor) for request in self.requests]
        return replace(self, requests=scaled)


def read_trace(path: Path, block_tokens: int = 512, load: float = 0.3) -> Trace:
    """A trace file. Raises ValueError with the line that is wrong."""
    requests = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            blocks = tuple(entry["hash_ids"])
            length, output = int(entry["input_length"]), int(entry["output_length"])
            seconds = float(entry["timestamp"]) / 1000
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: not a request of a trace: {error!r}"
            ) from None
        if not 0 < length <= len(blocks) * block_tokens:
            message = f"input_length {length} does not fit {len(blocks)} hash_ids of {block_tokens}"
            raise ValueError(f"{path}, line {number}: {message}")
        requests.append(Request(seconds, length, max(1, output), blocks))
    if not requests:
        raise ValueError(f"{path}: no requests")
    requests.sort(key=lambda request: request.seconds)
    return Trace(path.stem, requests, block_tokens, load)


# ---- made up: each takes the number of workers, how much of the full length, and a seed ----

SYNTHETIC: dict[str, Callable[[int, float, int], Trace]] = {}
"""Traces that are made up, by name."""


def _synthetic(name: str) -> Callable:
    def register(make: Callable[[int, float, int], Trace]) -> Callable:
        SYNTHETIC[name] = make
        return make

    return register


class _Texts:
    """Fresh block ids, in 32-token blocks."""

    block_tokens = 32

    def __init__(self) -> None:
        self._ids: Iterator[int] = itertools.count(1)

    def fresh(self, tokens: int) -> tuple[int, ...]:
        return tuple(itertools.islice(self._ids, -(-tokens // self.block_tokens)))


def _request(seconds: float, blocks: tuple[int, ...], output: int, session: int | None) -> Request:
    return Request(seconds, len(blocks) * _Texts.block_tokens, output, blocks, session)


def _finish(name: str, requests: list[Request], **facts: float | int) -> Trace:
    requests.sort(key=lambda request: request.seconds)
    return Trace(name, requests, _Texts.block_tokens, **facts)  # pyright: ignore[reportArgumentType]


@_synthetic("chats")
def chats(workers: int, length: float, seed: int) -> Trace:
    """25 chats a worker, 8 turns each; a worker's cache holds half its share of all their text."""
    rng, texts = random.Random(seed), _Texts()
    count = max(workers, round(25 * workers * length))
    requests = []
    for chat in range(count):
        now = rng.uniform(0, 70)
        blocks = texts.fresh(1536)
        for _ in range(8):
            requests.append(_request(now, blocks, 16, chat))
            blocks += texts.fresh(rng.randrange(128, 448))
            now += rng.uniform(2, 6)
    last: dict[int | None, int] = {}
    for request in requests:
        last[request.session] = max(last.get(request.session, 0), request.input_length)
    kv_tokens = sum(last.values()) // (2 * workers)
    return _finish("chats", requests, load=0.25, kv_tokens=kv_tokens, speed=3.0)


@_synthetic("system prompts")
def system_prompts(workers: int, length: float, seed: int) -> Trace:
    """5 system prompts a worker under a Zipf law, one turn; all caches together hold them twice."""
    rng, texts = random.Random(seed), _Texts()
    prompts = [texts.fresh(3072) for _ in range(5 * workers)]
    weights = [1 / rank for rank in range(1, len(prompts) + 1)]
    requests = []
    for number in range(round(1000 * workers * length)):
        prompt = rng.choices(prompts, weights)[0]
        requests.append(_request(float(number), prompt + texts.fresh(128), 16, None))
    kv_tokens = len(prompts) * 3072 // 4 * 8 // workers
    return _finish(
        "system prompts", _poisson(requests, rng), load=0.25, kv_tokens=kv_tokens, speed=3.0
    )


@_synthetic("one prompt")
def one_prompt(workers: int, length: float, seed: int) -> Trace:
    """All requests share one system prompt of 4,096 tokens."""
    rng, texts = random.Random(seed), _Texts()
    prompt = texts.fresh(4096)
    requests = [
        _request(float(number), prompt + texts.fresh(rng.randrange(64, 512)), 128, None)
        for number in range(round(1000 * workers * length))
    ]
    return _finish("one prompt", _poisson(requests, rng), load=0.4)


@_synthetic("unique")
def unique(workers: int, length: float, seed: int) -> Trace:
    """Prompts that share nothing, of very different lengths."""
    rng, texts = random.Random(seed), _Texts()
    requests = [
        _request(float(number), texts.fresh(round(rng.lognormvariate(7, 1))), 128, None)
        for number in range(round(500 * workers * length))
    ]
    return _finish("unique", _poisson(requests, rng), load=0.5)


@_synthetic("agents")
def agents(workers: int, length: float, seed: int) -> Trace:
    """Tasks over a long context, in rounds of up to 12 requests at once; rounds make it longer."""
    rng, texts = random.Random(seed), _Texts()
    requests = []
    tasks = max(2, round(12 * workers * length))
    for task in range(tasks):
        now, context = rng.uniform(0, 900), texts.fresh(rng.randrange(6_000, 24_000))
        for _ in range(rng.randrange(3, 9)):
            for _ in range(rng.randrange(1, 13)):
                blocks = context + texts.fresh(rng.randrange(64, 1024))
                requests.append(_request(now + rng.uniform(0, 0.2), blocks, 96, task))
            context += texts.fresh(rng.randrange(512, 4096))
            now += rng.uniform(4, 20)
    return _finish("agents", requests, load=0.25)


def _poisson(requests: list[Request], rng: random.Random) -> list[Request]:
    """The same requests with exponential gaps of mean 1."""
    now, spread = 0.0, []
    for request in requests:
        now += rng.expovariate(1.0)
        spread.append(replace(request, seconds=now))
    return spread
