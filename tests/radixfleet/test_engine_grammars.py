"""Answers of the offline engine that are held to grammars."""

from __future__ import annotations

import json
import os
import re

import pytest

from radixfleet import Engine

from ..worker.api.worker_process import children_of
from ..worker.checkpoints import make_checkpoint
from ..worker.tokenization.tiny_tokenizer import write_tiny_tokenizer

NUMBERS = {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 4}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<n>", "schema": {"enum": [1, 2]}, "end": "</n>"}],
    "triggers": ["<"],
}
PROMPTS = ["the"] * 4


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3", vocab_size=270)
    write_tiny_tokenizer(folder)
    before = set(children_of(os.getpid()))
    with Engine(
        model_path=str(folder), device="cpu", num_threads=1, max_total_tokens=512
    ) as engine:
        yield engine
        assert len(set(children_of(os.getpid())) - before) == 1, "one process compiles"
    assert set(children_of(os.getpid())) == before, "nothing is left behind"


@pytest.fixture(autouse=True)
def _nothing_is_held(engine):
    yield
    assert engine.flush_cache()
    state = engine.scheduler.state("")
    assert (state.running_requests, state.free_tokens) == (0, state.total_tokens)


@pytest.fixture
def sampling(engine):
    """One for each prompt; in the free text of the last its trigger comes often."""
    (trigger,) = engine.tokenizer.encode("<")
    return [
        {"regex": "[a-c]{2,4}"},
        {"json_schema": json.dumps(NUMBERS)},
        {"ebnf": 'root ::= "x" | "(" root ")"'},
        {
            "structural_tag": json.dumps(TAG),
            "logit_bias": {trigger: 20},
            "max_new_tokens": 60,
        },
    ]


def check(answers):
    """That each keeps to its own of `sampling`."""
    letters, numbers, brackets, tagged = (answer["text"] for answer in answers)
    assert re.fullmatch("[a-c]{2,4}", letters)
    assert set(json.loads(numbers)) <= {1, 2}
    assert re.fullmatch(r"\(*x\)*", brackets)
    assert re.match(r"[^<]*(<n>[12]</n>[^<]*)+", tagged)
    assert re.fullmatch(r"[^<]*(<n>[12]</n>[^<]*)*(<[n>12</]*)?", tagged)


def test_each_prompt_of_a_list_keeps_to_its_own(engine, sampling):
    check(engine.generate(PROMPTS, sampling))


def test_a_stream_of_several_keeps_each_to_its_own(engine, sampling):
    last = {}
    for event in engine.generate(PROMPTS, sampling, stream=True):
        assert event["text"].startswith(last.get(event["index"], {"text": ""})["text"])
        last[event["index"]] = event
    check([last[index] for index in range(4)])


def test_one_for_all_holds_every_prompt_and_sample(engine):
    answers = engine.generate(["in", "the"], {"regex": "[a-z]{3}", "n": 3})
    assert len(answers) == 6
    assert all(re.fullmatch("[a-z]{3}", answer["text"]) for answer in answers)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"regex": "(a"}, "no regular expression"),
        ({"json_schema": '{"not": {}}'}, "not"),
        ({"structural_tag": json.dumps({**TAG, "triggers": ["x"]})}, "trigger"),
        ({"structural_tag": "[]"}, "structural_tag"),
        ({"regex": "a", "json_schema": "{}"}, "one of json_schema and regex"),
    ],
)
def test_one_that_is_wrong_fails_the_call_and_leaves_nothing(engine, wrong, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(PROMPTS[:2], [{"regex": "a*"}, wrong])
