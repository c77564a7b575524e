"""Penalties in the running engine: Hugging Face's tokens, through retraction and overlap."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ..checkpoints import hf_reference
from .harness import Engine

REPETITION = 1.4
LEAST = 20


@pytest.fixture(scope="module")
def answers(model, prompts) -> list[list[int]]:
    """Hugging Face's greedy answers with a repetition penalty, 32 tokens each."""
    reference = hf_reference(model)
    reference.generation_config.eos_token_id = None
    found = []
    for prompt in prompts:
        with torch.inference_mode():
            out = reference.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=32,
                do_sample=False,
                repetition_penalty=REPETITION,
            )
        found.append(out[0, len(prompt) :].tolist())
    return found


def make_engine(model, *, overlap: bool = False, **args) -> Engine:
    engine = Engine(model, **args)
    engine.scheduler.options = replace(engine.scheduler.options, overlap=overlap)
    return engine


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("tokens", [8192, 110])
def test_repetition_penalty_gives_hugging_faces_tokens(model, prompts, answers, overlap, tokens):
    engine = make_engine(
        model,
        overlap=overlap,
        max_total_tokens=tokens,
        chunked_prefill_size=16,
        schedule_conservativeness=0.05,
    )
    sampling = {"repetition_penalty": REPETITION, "ignore_eos": True}
    assert engine.generate(prompts, 32, **sampling) == answers
    assert (engine.scheduler.counters.retractions > 0) == (tokens == 110)
    plain = engine.generate(prompts, 32, ignore_eos=True)
    assert plain != answers
    assert engine.generate(prompts, 32, **sampling) == answers


@pytest.mark.parametrize("overlap", [False, True])
def test_a_presence_penalty_that_outweighs_all_gives_every_token_once(model, prompts, overlap):
    engine = make_engine(model, overlap=overlap)
    for answer in engine.generate(prompts, 100, presence_penalty=1000.0, ignore_eos=True):
        assert len(set(answer)) == 100


def test_no_stop_token_comes_before_the_least_length(model, prompts):
    engine = make_engine(model)
    free = engine.generate(prompts[:1], LEAST + 5, ignore_eos=True)[0]
    stops = tuple(free[:10])
    assert engine.generate(prompts[:1], LEAST + 5, stop_token_ids=stops)[0] == free[:1]
    bias = tuple((token, 1000.0) for token in stops)
    sampling = {"stop_token_ids": stops, "logit_bias": bias, "min_new_tokens": LEAST}
    answer = engine.generate(prompts[:1], LEAST + 5, **sampling)[0]
    assert len(answer) == LEAST + 1
    assert not set(answer[:-1]) & set(stops)
    assert answer[-1] in stops
