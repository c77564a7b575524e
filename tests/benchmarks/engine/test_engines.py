"""The peers' engines are asked by their own names for the same: checked on stand-ins."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from benchmarks.engine.engines import ENGINES

PROMPTS, LENGTHS = [[5, 6], [7]], [3, 4]


class StandIn:
    """Remembers how it was made and asked."""

    made: dict
    asked: tuple

    def __init__(self, **arguments) -> None:
        type(self).made = arguments


class LLM(StandIn):
    def generate(self, prompts, params, use_tqdm):
        type(self).asked = ([prompt["prompt_token_ids"] for prompt in prompts], params)
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1] * each["max_tokens"])])
            for each in params
        ]


class SGLangEngine(StandIn):
    def generate(self, input_ids, sampling_params):
        type(self).asked = (input_ids, sampling_params)
        return [
            {"meta_info": {"completion_tokens": each["max_new_tokens"]}} for each in sampling_params
        ]


VLLM = SimpleNamespace(__version__="9.9", LLM=LLM, SamplingParams=lambda **given: given)
SGLANG = SimpleNamespace(__version__="8.8", Engine=SGLangEngine)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("name", "module", "kind", "length", "cache"),
    [
        ("vllm", VLLM, LLM, "max_tokens", ("enable_prefix_caching", True)),
        ("sglang", SGLANG, SGLangEngine, "max_new_tokens", ("disable_radix_cache", False)),
    ],
)
def test_a_peer_answers_as_many_tokens_past_any_end(
    monkeypatch, name, module, kind, length, cache, cached
):
    monkeypatch.setitem(sys.modules, name, module)
    engine = ENGINES[name]("a/model", cached)
    assert engine.version == module.__version__
    assert engine.generate(PROMPTS, LENGTHS, 0.5) == 7
    prompts, params = kind.asked
    assert prompts == PROMPTS
    assert [each[length] for each in params] == LENGTHS
    assert all(each["ignore_eos"] and each["temperature"] == 0.5 for each in params)
    assert kind.made["load_format"] == "dummy"
    option, on = cache
    assert kind.made[option] is (on if cached else not on)
