"""Tiny random models that embed and classify: the GPU's vectors are Hugging Face's on a CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from radixfleet import Engine

from ..worker.checkpoints import hf_reference, make_checkpoint
from ..worker.engine.test_embedding import FAMILIES, FLAGS, TEXTS, hf_vectors, write_pooling

# The least cosine: matrix products in float32 may be rounded, and in bfloat16 much is.
COSINE = {"float32": 0.9999, "bfloat16": 0.998}
ARGS = {"skip_tokenizer_init": True, "device": "cuda", "max_total_tokens": 2048}


def vectors(folder, texts, dtype: str, **args) -> torch.Tensor:
    """Of all texts at once, and again, which must not change them: the second ones."""
    with Engine(model_path=str(folder), dtype=dtype, is_embedding=True, **ARGS, **args) as engine:
        first, second = ([a["embedding"] for a in engine.encode(input_ids=texts)] for _ in "12")
    first, second = torch.tensor(first), torch.tensor(second)
    assert F.cosine_similarity(first, second).min() >= COSINE[dtype]
    return second


@pytest.mark.parametrize("dtype", COSINE)
@pytest.mark.parametrize("mode", FLAGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_pooling(family, mode, dtype, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="embed")
    write_pooling(folder, mode, normalize=False)
    found = vectors(folder, TEXTS, dtype, chunked_prefill_size=32)
    expected = hf_vectors(folder, mode, normalize=False)
    assert F.cosine_similarity(found, expected).min() >= COSINE[dtype]


@pytest.mark.parametrize("dtype", COSINE)
@pytest.mark.parametrize("family", ["llama2", "qwen3"])
def test_decoders_without_causal_attention(family, dtype, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="embed", is_causal=False)
    found = vectors(folder, TEXTS, dtype)
    expected = hf_vectors(folder, "last", normalize=True)
    assert F.cosine_similarity(found, expected).min() >= COSINE[dtype]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_classifiers(family, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="classify", num_labels=3, pad_token_id=0)
    model = hf_reference(folder, head="classify")
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([text])).logits for text in TEXTS])
    torch.testing.assert_close(vectors(folder, TEXTS, "float32"), expected, atol=1e-2, rtol=0)


def test_many_more_texts_than_fit_a_step(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="embed")
    many = [text for text in TEXTS for _ in range(100)]
    found = vectors(folder, many, "bfloat16", max_prefill_tokens=512)
    expected = hf_vectors(folder, "mean", normalize=True).repeat_interleave(100, dim=0)
    assert F.cosine_similarity(found, expected).min() >= COSINE["bfloat16"]
