"""The offline engine as an embedding and a classification model, in SGLang's shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from radixfleet import Engine
from worker.models.config import ModelConfigError

from ..worker.checkpoints import hf_reference, make_checkpoint
from ..worker.tokenization.tiny_tokenizer import write_tiny_tokenizer
from ..worker.tokenization.wordpiece_tokenizer import write_wordpiece_tokenizer

TEXTS = ["the inner order", "hé", "in the end there is the one"]
ARGS = {"dtype": "float32", "device": "cpu", "num_threads": 1}
SMALL = ARGS | {"max_total_tokens": 512}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny_tokenizer(tmp_path_factory.mktemp("decoder"))
    return make_checkpoint(folder, "qwen3", vocab_size=270)


@pytest.fixture(scope="module")
def engine(model):
    with Engine(model_path=str(model), is_embedding=True, **SMALL) as engine:
        yield engine


def test_one_text_gives_a_dict_and_several_a_list(model, engine):
    answers = engine.encode(TEXTS)
    reference = hf_reference(model, head="embed")
    for text, answer in zip(TEXTS, answers, strict=True):
        input_ids = engine.tokenizer.encode(text)
        with torch.inference_mode():
            last = reference(torch.tensor([input_ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(torch.tensor(answer["embedding"]), F.normalize(last, dim=0))
        assert answer["meta_info"]["prompt_tokens"] == len(input_ids)
    one = engine.encode(TEXTS[0])
    torch.testing.assert_close(*(torch.tensor(a["embedding"]) for a in (one, answers[0])))
    assert one["meta_info"]["cached_tokens"] == one["meta_info"]["prompt_tokens"] - 1
    by_ids = engine.encode(input_ids=[engine.tokenizer.encode(text) for text in TEXTS])
    assert len(by_ids) == 3


def test_a_model_that_generates_refuses_to_encode_and_the_reverse(model, engine):
    with pytest.raises(ValueError, match="it generates none"):
        engine.generate(TEXTS[0], {"max_new_tokens": 1})
    with (
        Engine(model_path=str(model), **SMALL) as generates,
        pytest.raises(ValueError, match="--is-embedding"),
    ):
        generates.encode(TEXTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either prompt or input_ids"),
        ({"prompt": "a", "input_ids": [1]}, "give either prompt or input_ids"),
        ({"input_ids": [[5], []]}, "The prompt is empty"),
        ({"input_ids": [270]}, "outside the vocabulary"),
        ({"input_ids": [5] * 257}, "257 tokens; it must fit in 256"),
    ],
)
def test_wrong_arguments(engine, arguments, message):
    with pytest.raises(ValueError, match=message):
        engine.encode(**arguments)
    assert engine.scheduler.is_idle


def test_a_cross_encoder_reads_pairs(tmp_path):
    folder = write_wordpiece_tokenizer(tmp_path)
    make_checkpoint(folder, "bert", head="classify", num_labels=1)
    reference = hf_reference(folder, head="classify")
    pair = ("hello world", "hello")
    with Engine(model_path=str(folder), **ARGS) as engine:
        (given,) = engine.tokenizer.encode_inputs([pair])
        answers = engine.encode([pair, "hello"])
        assert engine.encode(pair)["embedding"] == pytest.approx(answers[0]["embedding"])
    assert 1 in given.token_type_ids
    with torch.inference_mode():
        expected = reference(
            torch.tensor([given.input_ids]), token_type_ids=torch.tensor([given.token_type_ids])
        )
    assert answers[0]["embedding"] == pytest.approx([expected.logits.item()], abs=1e-4)


def test_two_ranks_embed_as_one(model, engine):
    with Engine(model_path=str(model), is_embedding=True, tp_size=2, **SMALL) as ranks:
        found = [answer["embedding"] for answer in ranks.encode(TEXTS)]
    expected = [answer["embedding"] for answer in engine.encode(TEXTS)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


def test_an_encoder_is_not_divided_among_ranks(tmp_path):
    folder = make_checkpoint(write_wordpiece_tokenizer(tmp_path), "bert", head="embed")
    with pytest.raises(ModelConfigError, match="--tp-size 2: BertModel runs on one device only"):
        Engine(model_path=str(folder), tp_size=2, **ARGS)
