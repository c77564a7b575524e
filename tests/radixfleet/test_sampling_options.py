"""Sampling parameters of the offline engine, beside those of POST /generate."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from radixfleet.sampling_options import SamplingOptions
from worker.api.native_types import SamplingFields
from worker.messages import SamplingParams

SAMPLES = [
    {},
    {"temperature": 0, "max_new_tokens": None, "seed": -1},
    {"top_k": 3, "min_p": 0.5, "top_p": 1, "stop": "a", "stop_token_ids": [4]},
    {"regex": "a|b"},
    {"json_schema": "{}", "ebnf": None},
    {
        "structural_tag": '{"type": "structural_tag", "triggers": ["<"], '
        '"structures": [{"begin": "<", "schema": {}, "end": ">"}]}'
    },
    {"stop": ["a", "b"], "ignore_eos": True, "skip_special_tokens": False},
]
WRONG = [
    {"temperature": -0.1},
    {"temperature": float("inf")},
    {"temperature": float("nan")},
    {"top_p": 1.1},
    {"top_k": 0},
    {"top_k": -2},
    {"top_k": 2**31},
    {"min_p": 2},
    {"regex": 5},
    {"json_schema": {}},
    {"structural_tag": {}},
    {"json_schema": "{}", "ebnf": 'root ::= "a"'},
    {"max_new_tokens": 2**31},
    {"seed": 2**63},
    {"stop": ""},
    {"stop_token_ids": [-1]},
    {"stop_token_ids": [4] * 1025},
    {"ignore_eos": 1},
    {"frequency_penalty": 2.1},
    {"presence_penalty": -2.1},
    {"repetition_penalty": 0},
    {"min_new_tokens": -1},
    {"n": 0},
    {"n": 129},
    {"min_new_tokens": 2**31, "max_new_tokens": None},
    {"unknown": 1},
]


@pytest.mark.parametrize("given", SAMPLES)
def test_both_ask_the_engine_for_the_same(given):
    offline, http = SamplingOptions.of(given), SamplingFields(**given)
    assert offline.for_engine(100) == http.for_engine(min(http.max_new_tokens or 100, 100))
    assert offline.stop_strings == http.stop
    assert offline.skip_special_tokens == http.skip_special_tokens


@pytest.mark.parametrize("given", WRONG)
def test_both_refuse_the_same(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        SamplingOptions.of(given)
    with pytest.raises(ValidationError):
        SamplingFields(**given)


def test_every_parameter_of_the_engine_can_be_given():
    # A grammar has fields of its own; what comes before it is for answers that are read in parts.
    given = {*SamplingOptions.__struct_fields__, "grammar", "reasoning"}
    assert set(SamplingParams.__struct_fields__) <= given
