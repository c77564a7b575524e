"""The decoder against Hugging Face's models, in every configuration that makes a family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worker.attention.base import forward_context
from worker.models.config import load_model_config
from worker.models.model import Model
from worker.models.registry import build_model
from worker.runtime.weights import load_weights

from ..checkpoints import FAMILIES, VOCAB_SIZE, hf_logits, hf_reference, make_checkpoint
from ..triton_interpreter import interpret_kernels
from .dense_attention import NO_BATCH, DenseAttention, logits
from .whole_texts import hidden_states

TOKENS = torch.randint(VOCAB_SIZE, (100,), generator=torch.Generator().manual_seed(1)).tolist()


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    model = build_model(load_model_config(folder), dtype)
    load_weights(model, folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_hugging_face(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, family)
    expected = hf_logits(hf_reference(folder), TOKENS)
    assert expected.std() > 0.1, "logits that hardly vary would prove nothing"
    torch.testing.assert_close(logits(load(folder), TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama3", "mistral_window", "qwen3"])
def test_tokens_one_by_one_give_the_logits_of_all_at_once(family: str, tmp_path: Path) -> None:
    model = load(make_checkpoint(tmp_path, family))
    at_once = logits(model, TOKENS)
    torch.testing.assert_close(logits(model, TOKENS, step=1), at_once, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model, TOKENS, step=17), at_once, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wanted", [[99], [0, 41, 99], []])
def test_the_last_layer_ends_with_the_tokens_that_are_wanted(
    wanted: list[int], tmp_path: Path
) -> None:
    model = load(make_checkpoint(tmp_path, "llama3"))
    expected = logits(model, TOKENS)
    seen: list[int] = []
    model.get_submodule("layers")[-1].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    batch = replace(NO_BATCH, logit_rows=torch.tensor(wanted, dtype=torch.int64))
    with torch.inference_mode(), forward_context(DenseAttention(), batch):
        hidden = model(torch.tensor(TOKENS), torch.arange(len(TOKENS)))
        torch.testing.assert_close(model.compute_logits(hidden), expected[wanted])
    assert seen == ([len(wanted)] if wanted else [])


@pytest.mark.parametrize("family", ["llama_biases", "qwen3"])
@pytest.mark.parametrize(("tokens", "step"), [(2, 1), (6, 4)])
def test_few_tokens_at_a_time_give_the_logits_of_all_at_once(
    family: str, tokens: int, step: int, tmp_path: Path
) -> None:
    interpret_kernels()
    model = load(make_checkpoint(tmp_path, family))
    expected = logits(model, TOKENS[:tokens])
    model.few_tokens = 4
    few = logits(model, TOKENS[:tokens], step=step)
    torch.testing.assert_close(few, expected, atol=1e-5, rtol=0)


def test_bfloat16_is_as_close_to_float32_as_hugging_face_is(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama3")
    exact = hf_logits(hf_reference(folder), TOKENS)
    theirs = (hf_logits(hf_reference(folder, torch.bfloat16), TOKENS) - exact).abs().mean()
    ours = (logits(load(folder, torch.bfloat16), TOKENS) - exact).abs().mean()
    assert ours <= 1.2 * theirs


def test_rope_scaling_in_the_old_form_means_the_same(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama3")
    expected = logits(load(folder), TOKENS)
    raw = json.loads((folder / "config.json").read_text())
    scaling = raw.pop("rope_parameters")
    raw["rope_theta"] = scaling.pop("rope_theta")
    raw["rope_scaling"] = scaling
    (folder / "config.json").write_text(json.dumps(raw))
    torch.testing.assert_close(logits(load(folder), TOKENS), expected, atol=0, rtol=0)


def test_a_sliding_window_changes_what_long_prompts_see(tmp_path: Path) -> None:
    windowed = logits(load(make_checkpoint(tmp_path / "a", "mistral_window")), TOKENS)
    full = logits(
        load(make_checkpoint(tmp_path / "b", "mistral_window", sliding_window=None)), TOKENS
    )
    torch.testing.assert_close(windowed[:12], full[:12], atol=1e-5, rtol=0)
    assert (windowed[20:] - full[20:]).abs().max() > 0.1


def test_specs_say_what_each_layer_caches(tmp_path: Path) -> None:
    specs = load(make_checkpoint(tmp_path, "qwen2_window")).attention_specs
    assert [spec.layer_id for spec in specs] == [0, 1, 2]
    assert [spec.sliding_window for spec in specs] == [None, None, 12]
    assert {(spec.num_heads, spec.num_kv_heads, spec.head_dim) for spec in specs} == {(4, 2, 16)}
    assert specs[0].scale == 0.25


def test_a_tied_head_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    tied = load(make_checkpoint(tmp_path / "a", "llama2", tie_word_embeddings=True))
    untied = load(make_checkpoint(tmp_path / "b", "llama2"))
    assert untied.weights_bytes() - tied.weights_bytes() == VOCAB_SIZE * 64 * 4


@pytest.mark.parametrize("family", ["llama2", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("saved_as", ["embed", "generate"])
def test_hidden_states_of_an_embedding_model(family: str, saved_as: str, tmp_path: Path) -> None:
    """A checkpoint without a head has no prefix before the names, and one with a head has."""
    folder = make_checkpoint(tmp_path, family, head=saved_as)
    model = build_model(load_model_config(folder, is_embedding=True), torch.float32)
    load_weights(model, folder)
    with torch.inference_mode():
        output = hf_reference(folder, head="embed")(torch.tensor([TOKENS]))
    expected = output.last_hidden_state[0]
    torch.testing.assert_close(logits(model, TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("labels", [1, 5])
def test_logits_of_a_classifier(labels: int, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "qwen2", head="classify", num_labels=labels, pad_token_id=0)
    with torch.inference_mode():
        expected = hf_reference(folder, head="classify")(torch.tensor([TOKENS])).logits
    found = logits(load(folder), TOKENS)[-1:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama2", "qwen3"])
def test_each_token_sees_the_whole_text_where_attention_is_not_causal(
    family: str, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path, family, head="embed", is_causal=False)
    texts = [TOKENS[:30], TOKENS[30:31], TOKENS[31:]]
    reference = hf_reference(folder, head="embed")
    with torch.inference_mode():
        expected = [reference(torch.tensor([text])).last_hidden_state[0] for text in texts]
    found = hidden_states(load(folder), texts)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=0)
