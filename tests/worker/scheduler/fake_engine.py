"""An engine without a model: its KV memory remembers tokens, so that a wrong slot is noticed."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worker.cache.kv_cache import KVCache
from worker.cache.radix_cache import common_prefix_length
from worker.messages import GenerateRequest, SamplingParams, TokenChunk
from worker.runtime.step_input import StepInput
from worker.runtime.step_result import StepResult
from worker.sampling.logprobs import Logprobs, Scoring
from worker.scheduler.scheduler import Scheduler, SchedulerOptions
from worker.scheduler.step import Step, step_input

VOCAB = 50


def _checksum(text: np.ndarray) -> int:
    return zlib.crc32(text.astype(np.int32).tobytes())


def next_token(text: np.ndarray) -> int:
    """What the fake model says after `text`: any change of the text changes it."""
    return _checksum(text) % VOCAB


def hidden_state(text: np.ndarray) -> int:
    """What the fake model thinks after `text`; a float32 can hold it."""
    return _checksum(text) % (1 << 24)


def log_probabilities(text: np.ndarray) -> np.ndarray:
    """Of each token after `text`, [VOCAB] float32: no two are equal."""
    order = np.random.default_rng(hidden_state(text)).permutation(VOCAB)
    return -1.0 - order.astype(np.float32)


def expected_answer(prompt: list[int], max_new_tokens: int, eos: int | None = None) -> list[int]:
    text = list(prompt)
    for _ in range(max_new_tokens):
        text.append(next_token(np.array(text)))
        if text[-1] == eos:
            break
    return text[len(prompt) :]


@dataclass(frozen=True)
class FakeResult:
    result: StepResult

    def wait(self) -> StepResult:
        return self.result


def _result(given: StepInput, sampled: list[int], texts: list[np.ndarray]) -> StepResult:
    """texts: of each sequence, up to the last token that the step computes"""
    spans = zip(texts, given.query_lens, strict=True)
    rows = [text[: len(text) - n + i + 1] for text, n in spans for i in range(n)]
    scoring, prompts = given.scoring, given.prompt_scoring
    logprobs = prompt_logprobs = states = None
    if scoring is not None:
        before = [texts[given.sampled[place]] for place in scoring.rows]
        logprobs = _logprobs(scoring, before, np.array(sampled)[scoring.rows])
    if prompts is not None:
        prompt_logprobs = _logprobs(prompts, [rows[i] for i in prompts.rows], prompts.targets)
    if len(given.state_rows):
        states = np.array([[hidden_state(rows[i])] for i in given.state_rows], dtype=np.float32)
    return StepResult(sampled, logprobs, prompt_logprobs, states)


def _logprobs(scoring: Scoring, before: list[np.ndarray], tokens: np.ndarray) -> Logprobs:
    values = np.stack([log_probabilities(text) for text in before])
    best = values.argsort(axis=1)[:, ::-1][:, : scoring.top]
    return Logprobs(
        values[np.arange(len(tokens)), tokens],
        best,
        np.take_along_axis(values, best, axis=1),
        np.take_along_axis(values, scoring.token_ids, axis=1),
    )


class FakeEngine:
    """A scheduler over a fake model. `steps` keeps what was computed; `answers` what came out."""

    overlap = False

    def __init__(
        self,
        total_tokens: int = 256,
        *,
        page_size: int = 1,
        disable_radix_cache: bool = False,
        make_scheduler: Callable[..., Scheduler] = Scheduler,
        **options,
    ) -> None:
        defaults = {
            "context_length": 128,
            "max_running_requests": 16,
            "max_prefill_tokens": 256,
            "chunked_prefill_size": None,
            "considerate_chunk_size": None,
            "enable_mixed_chunk": False,
            "schedule_policy": "lpm",
            "schedule_conservativeness": 1.0,
            "random_seed": 0,
            "tp_size": 1,
            "eos_token_ids": (),
            "overlap": FakeEngine.overlap,
            "prefix_sharing": not disable_radix_cache,
        }
        self.options = SchedulerOptions(**(defaults | options))
        self.cache = KVCache(
            total_tokens,
            self.options.max_running_requests + 1,
            self.options.context_length,
            page_size=page_size,
            disable_radix_cache=disable_radix_cache,
            track_changes=True,
        )
        self.scheduler = make_scheduler(self.cache, self._launch, self.options)
        self.memory = np.full(total_tokens, -1, dtype=np.int32)
        self.next_tokens = np.full(len(self.cache.table), -1, dtype=np.int32)
        self.table = np.zeros_like(self.cache.table)  # the device's
        self.steps: list[Step] = []
        self.computed_tokens = 0
        self.answers: dict[str, list[int]] = {}
        self.chunks: dict[str, list[TokenChunk]] = {}
        self.fail_next: Exception | None = None

    def _launch(self, step: Step) -> FakeResult:
        self.steps.append(step)
        given = step_input(step, self.cache)
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        tokens = [self.next_tokens[given.rows[: given.num_decodes]], given.prompt_ids]
        self.memory[given.out_slots] = np.concatenate(tokens)
        self.table.reshape(-1)[given.table_indices] = given.table_slots
        decodes = slice(given.num_decodes)
        places = given.rows[decodes], given.seq_lens[decodes] - 1
        self.table[places] = given.out_slots[decodes]
        self.cache.forget_table_changes()
        self._check_shared_lens(given)
        requests = step.decodes + [chunk.request for chunk in step.prefills]
        sampled, texts = [], []
        for i, (row, length) in enumerate(zip(given.rows, given.seq_lens, strict=True)):
            slots = self.table[row, :length]
            assert (slots == self.cache.table[row, :length]).all(), "the device's table is stale"
            assert len(np.unique(slots)) == length
            text, known = self.memory[slots], requests[i].text[:length]
            assert (text[: len(known)] == known).all(), "attention would read wrong KV"
            texts.append(text)
            if i in given.sampled:
                self.next_tokens[row] = next_token(text)
                sampled.append(int(self.next_tokens[row]))
        self.computed_tokens += len(given.out_slots)
        return FakeResult(_result(given, sampled, texts))

    def _check_shared_lens(self, given: StepInput) -> None:
        """They are what the page table says; whoever shares more stands no further away."""
        assert (given.shared_lens is not None) == self.options.prefix_sharing
        if given.shared_lens is None:
            return
        assert given.shared_lens.dtype == np.int32
        before = given.seq_lens - given.query_lens
        slots = [self.table[row, :n] for row, n in zip(given.rows, before, strict=True)]
        decodes, chunks = slots[: given.num_decodes], slots[given.num_decodes :]
        shared = np.split(given.shared_lens, [given.num_decodes])
        for sequences, lens in zip((decodes, chunks), shared, strict=True):
            for i, j in itertools.combinations(range(len(sequences)), 2):
                assert common_prefix_length(sequences[i], sequences[j]) == lens[i + 1 : j + 1].min()
            assert not lens[:1].any()

    def add(
        self,
        rid: str,
        prompt: list[int],
        max_new_tokens: int = 8,
        stream_interval: int = 1,
        **sampling,
    ) -> None:
        params = SamplingParams(max_new_tokens=max_new_tokens, **sampling)
        self.ask(GenerateRequest(rid, prompt, params, stream_interval))

    def ask(self, message: GenerateRequest) -> None:
        self._collect(self.scheduler.add(message))

    def step(self) -> None:
        self._collect(self.scheduler.step())
        self.cache.check()

    def run(self, limit: int = 10_000) -> None:
        """Step until nothing is left to do."""
        for _ in range(limit):
            if self.scheduler.is_idle:
                self.step()
                assert (self.cache.held_tokens, self.cache.tree.locked_tokens) == (0, 0)
                return
            self.step()
        raise AssertionError("requests starve")

    def _collect(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            self.answers.setdefault(chunk.rid, []).extend(chunk.token_ids)
            self.chunks.setdefault(chunk.rid, []).append(chunk)

    def finish(self, rid: str):
        return self.chunks[rid][-1].finish
