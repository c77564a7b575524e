"""Encoders against Hugging Face's models: alone and packed, embeddings and classifiers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.models.config import ModelConfigError, load_model_config
from worker.models.config_bert import ACTIVATIONS
from worker.models.model import Model
from worker.models.registry import build_model
from worker.runtime.weights import load_weights

from ..checkpoints import ENCODERS, VOCAB_SIZE, hf_reference, make_checkpoint
from .whole_texts import hidden_states

_GENERATOR = torch.Generator().manual_seed(3)
# From 3 on: Hugging Face's RoBERTa does not count the padding token as a place.
TEXTS = [
    torch.randint(3, VOCAB_SIZE, (n,), generator=_GENERATOR).tolist() for n in (7, 31, 1, 60, 7)
]


def load(folder: Path) -> Model:
    model = build_model(load_model_config(folder), torch.float32)
    load_weights(model, folder)
    return model


def hf_hidden(folder: Path, text: list[int], types: list[int] | None = None) -> torch.Tensor:
    given = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.inference_mode():
        output = hf_reference(folder, head="embed")(torch.tensor([text]), **given)
    return output.last_hidden_state[0]


@pytest.mark.parametrize("family", ENCODERS)
def test_hidden_states_of_packed_texts_are_hugging_faces_of_each_alone(family, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="embed")
    expected = torch.cat([hf_hidden(folder, text) for text in TEXTS])
    assert expected.std() > 0.1
    found = hidden_states(load(folder), TEXTS)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_the_two_texts_of_a_pair_have_types(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="embed")
    types = [[0] * (len(text) // 2) + [1] * (len(text) - len(text) // 2) for text in TEXTS]
    pairs = zip(TEXTS, types, strict=True)
    expected = torch.cat([hf_hidden(folder, text, kinds) for text, kinds in pairs])
    model = load(folder)
    found = hidden_states(model, TEXTS, token_type_ids=types)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert (found - hidden_states(model, TEXTS)).abs().max() > 0.1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="embed", hidden_act=activation)
    found = hidden_states(load(folder), TEXTS[:2])
    expected = torch.cat([hf_hidden(folder, text) for text in TEXTS[:2]])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", ENCODERS)
def test_logits_of_classifiers(family, labels, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="classify", num_labels=labels)
    reference = hf_reference(folder, head="classify")
    with torch.inference_mode():
        expected = torch.cat([reference(torch.tensor([text])).logits for text in TEXTS])
    model = load(folder)
    first = [sum(map(len, TEXTS[:i])) for i in range(len(TEXTS))]
    found = model.compute_logits(hidden_states(model, TEXTS, logit_rows=first))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_the_last_layer_ends_with_the_tokens_that_are_wanted(tmp_path):
    model = load(make_checkpoint(tmp_path, "bert", head="embed"))
    everywhere = hidden_states(model, TEXTS)
    seen = []
    model.get_submodule("layers.2.output").register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    found = hidden_states(model, TEXTS, logit_rows=[0, 7, 38])
    torch.testing.assert_close(found, everywhere[[0, 7, 38]])
    assert seen == [3]


@pytest.mark.parametrize(("family", "longest"), [("bert", 256), ("roberta", 254)])
def test_texts_end_where_the_table_of_positions_does(family, longest, tmp_path):
    config = load_model_config(make_checkpoint(tmp_path, family, head="embed"))
    assert config.max_position_embeddings == longest
    with pytest.raises(ModelConfigError, match=f"end at {longest} tokens, not at {longest + 1}"):
        build_model(config, torch.float32, max_positions=longest + 1)


def test_a_masked_language_model_is_served_without_its_head(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_attention_heads=2)
    config.num_hidden_layers, config.intermediate_size = 2, 64
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert load_model_config(tmp_path).architecture == "BertModel"
    expected = hf_hidden(tmp_path, TEXTS[0])
    torch.testing.assert_close(hidden_states(load(tmp_path), TEXTS[:1]), expected)
