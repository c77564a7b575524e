"""Prompts as embeddings: Hugging Face's tokens, and a prefix cache that knows them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from worker.messages import SamplingParams
from worker.scheduler import embedded_tokens
from worker.tokenization.input_embeds import pack_embeddings

from ..checkpoints import VOCAB_SIZE, hf_reference, make_checkpoint
from .harness import Engine

MODES = {
    "whole prompts": {},
    "chunks of 1": {"chunked_prefill_size": 1},
    "chunks of 7, mixed": {"chunked_prefill_size": 7, "enable_mixed_chunk": True},
    "pages of 16": {"chunked_prefill_size": 16, "page_size": 16},
    "no radix cache": {"disable_radix_cache": True},
    "retraction": {"max_total_tokens": 110, "schedule_conservativeness": 0.05},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture(scope="module")
def reference(model):
    reference = hf_reference(model)
    reference.generation_config.eos_token_id = None
    return reference


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = (5, 17, 30, 9)
    return [torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]


def make_engine(model, *, overlap: bool = False, **args) -> Engine:
    engine = Engine(model, **args)
    engine.scheduler.options = replace(engine.scheduler.options, overlap=overlap)
    return engine


def rows_of(reference, prompt: list[int]) -> np.ndarray:
    """The model's own embeddings: [tokens, hidden] float32."""
    return reference.get_input_embeddings().weight.detach().numpy()[prompt]


def random_rows(count: int, hidden: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, hidden)).astype(np.float32)


def ask(engine: Engine, rows: np.ndarray, max_new_tokens: int = 32, **sampling) -> str:
    params = SamplingParams(max_new_tokens, temperature=0.0, ignore_eos=True, **sampling)
    return engine.ask([0] * len(rows), params, input_embeds=pack_embeddings(rows))


def hf_answer(reference, rows: np.ndarray, count: int = 32, **options) -> list[int]:
    with torch.inference_mode():
        out = reference.generate(
            inputs_embeds=torch.tensor(rows)[None],
            attention_mask=torch.ones(1, len(rows), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            **options,
        )
    return out[0].tolist()


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_answers_are_hugging_faces(model, reference, prompts, mode, overlap):
    engine = make_engine(model, overlap=overlap, **MODES[mode])
    hidden = engine.ready.hidden_size
    given = [rows_of(reference, prompts[0]), random_rows(24, hidden, 1), random_rows(9, hidden, 2)]
    expected = [hf_answer(reference, rows) for rows in given]
    for _ in range(2):  # the second time from the cache, where there is one
        rids = [ask(engine, rows) for rows in given]
        tokens = engine.add(prompts[2], 32, ignore_eos=True)
        engine.run()
        assert [engine.answer(rid) for rid in rids] == expected
        assert engine.answer(tokens) == hf_answer(reference, rows_of(reference, prompts[2]))
    assert (engine.scheduler.counters.retractions > 0) == (mode == "retraction")


def test_the_models_own_rows_are_answered_as_their_tokens_are_but_cached_apart(
    model, reference, prompts
):
    engine = make_engine(model)
    answers = engine.generate(prompts, 24, ignore_eos=True)
    rids = [ask(engine, rows_of(reference, prompt), 24) for prompt in prompts]
    engine.run()
    assert [engine.answer(rid) for rid in rids] == answers
    assert [engine.cached[rid] for rid in rids] == [0] * len(prompts)


def test_equal_beginnings_are_cached_and_nothing_else(model, reference):
    engine = make_engine(model)
    rows = random_rows(40, engine.ready.hidden_size, 3)
    other_end = rows.copy()
    other_end[25:] = rows[:15]
    shifted = rows[1:]
    cached = []
    for each in (rows, rows, other_end, shifted):
        rid = ask(engine, each, 4)
        engine.run()
        assert engine.answer(rid) == hf_answer(reference, each, 4)
        cached.append(engine.cached[rid])
    assert cached == [0, 39, 25, 0]


def test_rows_that_were_forgotten_get_ids_that_nothing_had(model, monkeypatch):
    monkeypatch.setattr(embedded_tokens, "_LIMIT", 50)
    engine = make_engine(model)
    first, second = (random_rows(30, engine.ready.hidden_size, seed) for seed in (4, 5))
    for rows, cached in ((first, 0), (first, 0), (first, 0), (second, 0)):
        rid = ask(engine, rows, 2)
        engine.run()
        assert engine.cached[rid] == cached, "more than the limit is known by no one"
    monkeypatch.setattr(embedded_tokens, "_LIMIT", 60)
    rid = ask(engine, second, 2)
    engine.run()
    assert engine.cached[rid] == 29


@pytest.mark.parametrize("overlap", [False, True])
def test_penalties_see_the_answer_alone(model, reference, overlap):
    engine = make_engine(model, overlap=overlap)
    rows = random_rows(12, engine.ready.hidden_size, 6)
    rid = ask(engine, rows, repetition_penalty=1.4)
    engine.run()
    assert engine.answer(rid) == hf_answer(reference, rows, repetition_penalty=1.4)


def test_a_prompt_alone_is_computed(model):
    engine = make_engine(model, chunked_prefill_size=8)
    rid = ask(engine, random_rows(20, engine.ready.hidden_size, 7), max_new_tokens=0)
    engine.run()
    assert engine.finish[rid].kind == "length"
    assert engine.answer(rid) == []


def test_numbers_must_be_finite_in_float32():
    for wrong in (np.inf, np.nan, 1e39, -1e39):
        rows = np.zeros((3, 2))
        rows[1, 0] = wrong
        with pytest.raises(ValueError, match="row 1 has a number that is not finite"):
            pack_embeddings(rows)
