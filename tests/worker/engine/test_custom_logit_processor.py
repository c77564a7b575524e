"""Custom logit processors in the running engine: every step, beside others, and when they fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from radixfleet import CustomLogitProcessor
from worker.messages import LogprobOptions, SamplingParams

from ..checkpoints import hf_logits, hf_reference
from .harness import Engine

MODES = {
    "in turn": {},
    "chunks, mixed": {"chunked_prefill_size": 7, "enable_mixed_chunk": True},
    "retraction": {"max_total_tokens": 110, "schedule_conservativeness": 0.05},
}


class Countdown(CustomLogitProcessor):
    """Leaves one token, the request's next; fails where the request says so."""

    def __call__(self, logits, custom_param_list):
        for row, params in enumerate(custom_param_list):
            params["next"] -= 1
            if params["next"] == params.get("fails_at"):
                raise RuntimeError("no more")
            logits[row] = -torch.inf
            if params["next"] != params.get("empty_at"):
                logits[row, params["next"]] = 0.0
        return logits


def make_engine(model, *, overlap: bool, **args) -> Engine:
    engine = Engine(model, **args)
    engine.scheduler.options = replace(engine.scheduler.options, overlap=overlap)
    return engine


def sampling(max_new_tokens: int, **params) -> SamplingParams:
    return SamplingParams(max_new_tokens, temperature=0.0, ignore_eos=True, **params)


def counting(start: int, max_new_tokens: int = 32, **params) -> SamplingParams:
    return sampling(max_new_tokens, custom_params={"next": start, **params})


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_they_choose_each_token_and_nobody_elses(model, prompts, mode, overlap):
    engine = make_engine(model, overlap=overlap, **MODES[mode])
    free = engine.generate(prompts[:2], 32, ignore_eos=True)
    text = Countdown.to_str()
    rids = [engine.ask(prompt, sampling(32)) for prompt in prompts[:2]]
    starts = (150, 90)
    for prompt, start in zip(prompts[2:], starts, strict=True):
        rids.append(engine.ask(prompt, counting(start), custom_logit_processor=text))
    engine.run()
    answers = [engine.answer(rid) for rid in rids]
    assert answers[:2] == free
    assert answers[2:] == [list(range(start - 1, start - 33, -1)) for start in starts]
    assert (engine.scheduler.counters.retractions > 0) == (mode == "retraction")


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("failure", ["fails_at", "empty_at"])
@pytest.mark.parametrize("tokens", [0, 5])
def test_one_that_fails_ends_its_request_and_nothing_else(model, prompts, failure, tokens, overlap):
    engine = make_engine(model, overlap=overlap)
    text = Countdown.to_str()
    good = engine.ask(prompts[0], counting(100), custom_logit_processor=text)
    free = engine.ask(prompts[1], sampling(32))
    last = 50 - tokens - 1
    bad = engine.ask(prompts[2], counting(50, **{failure: last}), custom_logit_processor=text)
    engine.run()
    assert engine.answer(bad) == list(range(49, last, -1))
    finish = engine.finish[bad]
    assert (finish.kind, finish.status) == ("abort", 400)
    expected = "RuntimeError: no more" if failure == "fails_at" else "left no token to choose"
    assert expected in (finish.message or "")
    assert len(engine.answer(good)) == 32
    # What stays in the cache is only what was computed for tokens that are known.
    untouched = make_engine(model, overlap=overlap)
    assert engine.answer(free) == untouched.generate([prompts[1]], 32, ignore_eos=True)[0]
    again = [[*prompts[2], *engine.answer(bad), 7], prompts[2]]
    found = engine.generate(again, 8, ignore_eos=True)
    assert found == untouched.generate(again, 8, ignore_eos=True)


def test_log_probabilities_are_those_before_them(model, prompts):
    engine = make_engine(model, overlap=True)
    text = Countdown.to_str()
    rid = engine.ask(
        prompts[0], counting(60, 4), custom_logit_processor=text, logprobs=LogprobOptions()
    )
    engine.run()
    chosen = [value for chunk in engine.chunks[rid] for value in chunk.logprobs.chosen]
    tokens = [59, 58, 57, 56]
    logits = hf_logits(hf_reference(model), prompts[0] + tokens[:-1])[-4:]
    expected = logits.log_softmax(dim=-1)[range(4), tokens]
    torch.testing.assert_close(torch.tensor(chosen), expected, atol=1e-4, rtol=0)


def test_what_cannot_be_loaded_is_refused(model, prompts):
    engine = make_engine(model, overlap=False)
    rid = engine.ask(prompts[0], counting(9), custom_logit_processor='{"callable": "00"}')
    assert engine.finish[rid].status == 400
    assert "cannot be loaded" in (engine.finish[rid].message or "")
    engine.run()
