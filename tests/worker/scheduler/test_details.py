"""Requests are told the same beside their tokens however they are batched, each thing once."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.messages import GenerateRequest, LogprobOptions, SamplingParams, TokenLogprobs

from .fake_engine import VOCAB, FakeEngine, hidden_state, log_probabilities


@pytest.fixture(autouse=True, params=[False, True], ids=["in turn", "overlapped"])
def overlap(request, monkeypatch):
    monkeypatch.setattr(FakeEngine, "overlap", request.param)


def expected_places(text: list[int], start: int, options: LogprobOptions) -> TokenLogprobs:
    """Of the tokens of `text` from `start` on."""
    told = TokenLogprobs([], [], [])
    for place in range(start, len(text)):
        values = log_probabilities(np.array(text[:place]))
        told.chosen.append(float(values[text[place]]))
        if options.top:
            best = sorted(range(VOCAB), key=lambda token: -values[token])[: options.top]
            told.top.append([(token, float(values[token])) for token in best])
        if options.token_ids:
            told.wanted.append([float(values[token]) for token in options.token_ids])
    return told


def check(engine: FakeEngine, message: GenerateRequest) -> None:
    """Each chunk says what belongs to its tokens; the first one also what belongs to the prompt."""
    text, options = list(message.input_ids), message.logprobs
    for i, chunk in enumerate(engine.chunks[message.rid]):
        known = len(text)
        text += chunk.token_ids
        wanted = None if options is None else expected_places(text, known, options)
        assert chunk.logprobs == wanted
        about_prompt = None
        if i == 0 and options is not None and options.prompt_start is not None:
            start = max(options.prompt_start, 1)
            about_prompt = expected_places(message.input_ids, start, options)
        assert chunk.prompt_logprobs == about_prompt
        states = None
        if message.return_hidden_states:
            # A first chunk has a row for each token but the one that it ends with.
            ends = range(known, len(text)) if i else range(1, max(known, len(text) - 1) + 1)
            rows = [hidden_state(np.array(text[:end])) for end in ends]
            states = np.array(rows, dtype=np.float32).tobytes()
        assert chunk.hidden_states == states


def random_message(rng: random.Random, rid: str, longest: int, width: int = 2) -> GenerateRequest:
    prompt = [rng.randrange(width) for _ in range(rng.randint(1, longest))]
    options = LogprobOptions(
        prompt_start=rng.choice([None, 0, 1, rng.randint(0, longest)]),
        top=rng.choice([0, 0, 3]),
        token_ids=tuple(rng.sample(range(VOCAB), rng.choice([0, 0, 2]))),
    )
    return GenerateRequest(
        rid,
        prompt,
        SamplingParams(rng.randint(0, 20)),
        stream_interval=rng.choice([0, 1, 3]),
        logprobs=rng.choice([None, options]),
        return_hidden_states=rng.random() < 0.3,
    )


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    total=st.sampled_from([64, 100, 256]),
    page_size=st.sampled_from([1, 4]),
    chunk=st.sampled_from([None, 1, 5, 16]),
    mixed=st.booleans(),
    radix=st.booleans(),
)
def test_under_any_mix_of_options_and_arrivals(seed, total, page_size, chunk, mixed, radix):
    rng = random.Random(seed)
    engine = FakeEngine(
        total_tokens=total,
        context_length=60,
        page_size=page_size,
        chunked_prefill_size=chunk,
        enable_mixed_chunk=mixed,
        disable_radix_cache=not radix,
        schedule_conservativeness=rng.choice([0.1, 1.0]),
    )
    messages = [random_message(rng, f"r{i}", 40) for i in range(16)]
    for message in messages:
        engine.ask(message)
        for _ in range(rng.randrange(3)):
            engine.step()
        if rng.random() < 0.1:
            engine.scheduler.abort(message.rid)
            engine.chunks.pop(message.rid, None)
    engine.run()
    for message in messages:
        if message.rid in engine.chunks:
            check(engine, message)


def test_the_cache_gives_what_nothing_is_wanted_of():
    engine = FakeEngine()
    prompt = list(range(40))
    cached = {}
    for start in (None, 0, 1, 25, 39, 40):
        options = LogprobOptions(prompt_start=start)
        message = GenerateRequest(f"from {start}", prompt, SamplingParams(3), logprobs=options)
        engine.ask(message)
        engine.run()
        check(engine, message)
        cached[start] = engine.chunks[message.rid][-1].cached_tokens
    assert cached == {None: 0, 0: 0, 1: 0, 25: 24, 39: 38, 40: 39}


def test_a_prompt_is_not_waited_for_by_those_who_cannot_use_it():
    engine = FakeEngine(total_tokens=1024)
    prompt = list(range(50))
    prefix = GenerateRequest("first", prompt, SamplingParams(2))
    whole = LogprobOptions(prompt_start=0)
    engine.ask(prefix)
    engine.ask(GenerateRequest("waits", [*prompt, 7], SamplingParams(2)))
    engine.ask(GenerateRequest("does not", [*prompt, 8], SamplingParams(2), logprobs=whole))
    engine.step()
    assert [chunk.request.rid for chunk in engine.steps[0].prefills] == ["first", "does not"]
    engine.run()


def test_those_who_ask_for_nothing_pay_nothing():
    engine = FakeEngine()
    engine.add("plain", [1, 2, 3], max_new_tokens=4)
    engine.step()
    engine.ask(GenerateRequest("asks", [4, 5], SamplingParams(2), logprobs=LogprobOptions(top=3)))
    engine.run()
    asking = [len(step.wishes) for step in engine.steps]
    assert asking.count(0) >= 2
    assert max(asking) == 1
