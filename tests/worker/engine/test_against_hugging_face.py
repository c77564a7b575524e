"""Greedy tokens of the real model equal Hugging Face's, however the engine batches and caches."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from worker.embedded_models import resolve_model_path

from ..checkpoints import hf_reference
from .harness import Engine
from .prompts import PARAGRAPHS, TEXTS

NEW_TOKENS = 16


@pytest.fixture(scope="module")
def model():
    return resolve_model_path("smollm2-135m")


@pytest.fixture(scope="module")
def reference(model):
    """Prompts as token ids, and Hugging Face's greedy answers in float32."""
    hf_model = hf_reference(model)
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS + PARAGRAPHS]
    answers = []
    for prompt in prompts:
        with torch.inference_mode():
            out = hf_model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
        answers.append(out[0, len(prompt) :].tolist())
    assert len(prompts) == 20
    return prompts, answers


def test_one_at_a_time_and_again_from_the_cache(model, reference):
    prompts, answers = reference
    engine = Engine(model)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert engine.generate([prompt], NEW_TOKENS) == [answer]
    cold = list(engine.cached.values())
    engine.cached.clear()
    for prompt, answer in zip(prompts, answers, strict=True):
        assert engine.generate([prompt], NEW_TOKENS) == [answer]
    assert list(engine.cached.values()) == [len(prompt) - 1 for prompt in prompts]
    assert sum(cold) < sum(engine.cached.values())


def test_all_twenty_in_one_batch(model, reference):
    prompts, answers = reference
    assert Engine(model).generate(prompts, NEW_TOKENS) == answers


def test_without_the_radix_cache(model, reference):
    prompts, answers = reference
    engine = Engine(model, disable_radix_cache=True)
    assert engine.generate(prompts, NEW_TOKENS) == answers
    assert set(engine.cached.values()) == {0}


@pytest.mark.parametrize("mixed", [False, True])
def test_with_chunked_prefill_of_sixteen(model, reference, mixed):
    prompts, answers = reference
    engine = Engine(model, chunked_prefill_size=16, enable_mixed_chunk=mixed)
    assert engine.generate(prompts, NEW_TOKENS) == answers


@pytest.mark.parametrize("page_size", [1, 16])
def test_after_retraction_under_a_pool_too_small_for_all(model, reference, page_size):
    prompts, answers = reference
    engine = Engine(
        model, max_total_tokens=304, page_size=page_size, schedule_conservativeness=0.05
    )
    assert engine.generate(prompts, NEW_TOKENS) == answers
    assert engine.scheduler.counters.retractions > 0


def test_seeded_sampling_does_not_depend_on_the_batch(model, reference):
    prompts, _ = reference
    engine = Engine(model)
    alone = engine.generate(prompts[1:2], 16, temperature=0.8, top_p=0.9, seed=42)
    engine.add(prompts[3], 16, temperature=1.0)
    again = engine.generate(prompts[1:2], 16, temperature=0.8, top_p=0.9, seed=42)
    other = engine.generate(prompts[1:2], 16, temperature=0.8, top_p=0.9, seed=43)
    assert alone == again
    assert alone != other
