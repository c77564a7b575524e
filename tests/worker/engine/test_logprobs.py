"""Log-probabilities and hidden states are Hugging Face's, however the engine batches and caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

from worker.messages import LogprobOptions, SamplingParams, TokenLogprobs
from worker.sampling import logprobs

from ..checkpoints import VOCAB_SIZE, hf_reference, make_checkpoint
from .harness import Engine

GREEDY = SamplingParams(26, temperature=0.0, ignore_eos=True)
CHANGED = SamplingParams(
    30,
    temperature=2.0,
    top_k=20,
    seed=3,
    ignore_eos=True,
    repetition_penalty=1.8,
    presence_penalty=1.0,
    logit_bias=((7, 5.0),),
)
ONLY_PROMPT = SamplingParams(0)

MODES = {
    "whole prompts": {},
    "chunks of 1": {"chunked_prefill_size": 1},
    "chunks of 7, mixed": {"chunked_prefill_size": 7, "enable_mixed_chunk": True},
    "chunks of 16, pages of 16": {"chunked_prefill_size": 16, "page_size": 16},
    "no radix cache": {"disable_radix_cache": True, "chunked_prefill_size": 13},
    "retraction": {"max_total_tokens": 128, "schedule_conservativeness": 0.05},
    "retraction, chunks of 5": {
        "max_total_tokens": 128,
        "schedule_conservativeness": 0.05,
        "chunked_prefill_size": 5,
    },
}


@dataclass(frozen=True)
class Question:
    prompt: list[int]
    sampling: SamplingParams
    logprobs: LogprobOptions | None = None
    hidden_states: bool = False


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture(autouse=True)
def slices_of_three_places(monkeypatch):
    monkeypatch.setattr(logprobs, "_SLICE_BYTES", 3 * 4 * VOCAB_SIZE)


# Log-probabilities [tokens, vocab] after each token of a text, and hidden states [tokens, hidden].
Reference = Callable[[tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def reference(model) -> Reference:
    hf_model = hf_reference(model)

    @cache
    def compute(text: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            output = hf_model(torch.tensor([text]), output_hidden_states=True)
        return output.logits[0].log_softmax(dim=-1), output.hidden_states[-1][0]

    return compute


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Of every kind; some prompts begin alike."""
    generator = torch.Generator().manual_seed(5)
    text = torch.randint(3, VOCAB_SIZE, (60,), generator=generator).tolist()
    return [
        Question(text[:9], GREEDY),
        Question(text[3:30], GREEDY, LogprobOptions()),
        Question(text[:40], CHANGED, LogprobOptions(top=4)),
        Question(text[2:33], GREEDY, LogprobOptions(prompt_start=0, top=2, token_ids=(5, 9, 5))),
        Question(text[20:], GREEDY, LogprobOptions(prompt_start=30)),
        Question(text[:38], ONLY_PROMPT, LogprobOptions(prompt_start=17, top=VOCAB_SIZE + 9)),
        Question(text[:1], GREEDY, LogprobOptions(prompt_start=0, token_ids=(VOCAB_SIZE - 1,))),
        Question(text[:36], CHANGED, None, hidden_states=True),
        Question(text[:39], ONLY_PROMPT, None, hidden_states=True),
        Question(text[:23], GREEDY, LogprobOptions(prompt_start=21), hidden_states=True),
        Question(text[:8], ONLY_PROMPT),
        Question(text[:12], GREEDY, LogprobOptions(prompt_start=500)),
    ]


def make_engine(model, *, overlap: bool = False, **args) -> Engine:
    engine = Engine(model, **args)
    engine.scheduler.options = replace(engine.scheduler.options, overlap=overlap)
    return engine


def ask(engine: Engine, questions: list[Question]) -> list[str]:
    rids = [
        engine.ask(
            each.prompt,
            each.sampling,
            logprobs=each.logprobs,
            return_hidden_states=each.hidden_states,
        )
        for each in questions
    ]
    engine.run()
    return rids


# ===== what Hugging Face says =====


def check(reference: Reference, engine: Engine, rid: str, question: Question) -> None:
    """All that `rid` was told, and that each chunk of it says what its tokens want."""
    chunks = engine.chunks[rid]
    answer, options = engine.answer(rid), question.logprobs
    assert len(answer) == question.sampling.max_new_tokens
    text, length = question.prompt + answer, len(question.prompt)
    expected, expected_states = reference(tuple(text))
    for chunk in chunks:
        assert (chunk.logprobs is None) == (options is None)
        assert (chunk.hidden_states is None) == (not question.hidden_states)
    if options is not None:
        told = [chunk.logprobs for chunk in chunks]
        assert [len(part.chosen) for part in told] == [len(chunk.token_ids) for chunk in chunks]
        check_places(expected[length - 1 : -1], answer, joined(told), options)
    first, *others = chunks
    assert all(chunk.prompt_logprobs is None for chunk in others)
    if options is None or options.prompt_start is None:
        assert first.prompt_logprobs is None
    else:
        start = max(options.prompt_start, 1)
        places = slice(min(start, length) - 1, length - 1)
        check_places(expected[places], text[start:length], first.prompt_logprobs, options)
    if question.hidden_states:
        states = expected_states[: max(length, len(text) - 1)]
        rows = [np.frombuffer(chunk.hidden_states, np.float32) for chunk in chunks]
        found = [part.reshape(-1, states.shape[1]) for part in rows]
        assert [len(part) for part in found] == [length] + [1] * (len(chunks) - 1)
        torch.testing.assert_close(torch.tensor(np.concatenate(found)), states, atol=1e-4, rtol=0)


def joined(parts: list[TokenLogprobs]) -> TokenLogprobs:
    return TokenLogprobs(
        [value for part in parts for value in part.chosen],
        [place for part in parts for place in part.top],
        [place for part in parts for place in part.wanted],
    )


def check_places(
    expected: torch.Tensor, tokens: list[int], told: TokenLogprobs, options: LogprobOptions
) -> None:
    """expected: [places, vocab], before each of `tokens`"""

    def close(found, values: torch.Tensor) -> None:
        torch.testing.assert_close(torch.tensor(found), values, atol=1e-4, rtol=0)

    count = len(tokens)
    close(told.chosen, expected.gather(1, torch.tensor(tokens, dtype=torch.int64)[:, None])[:, 0])
    assert len(told.top) == (count if options.top else 0)
    for place, values in zip(told.top, expected, strict=False):
        ids, best = zip(*place, strict=True)
        close(best, values[list(ids)])
        close(best, values.topk(min(options.top, VOCAB_SIZE)).values)
        assert len(set(ids)) == len(ids)
    assert len(told.wanted) == (count if options.token_ids else 0)
    for place, values in zip(told.wanted, expected, strict=False):
        close(place, values[list(options.token_ids)])


# ===== in every mode =====


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize("mode", MODES)
def test_everyone_is_told_what_he_asked_for(model, reference, questions, mode, overlap):
    engine = make_engine(model, overlap=overlap, **MODES[mode])
    for again in (False, True):
        for rid, question in zip(ask(engine, questions), questions, strict=True):
            check(reference, engine, rid, question)
            options = question.logprobs
            if again and options is not None and options.prompt_start is not None:
                assert engine.cached[rid] < max(options.prompt_start, 1)
            if question.hidden_states:
                assert engine.cached[rid] == 0
    assert (engine.scheduler.counters.retractions > 0) == ("retraction" in mode)
