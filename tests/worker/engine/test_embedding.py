"""Vectors of the whole engine: Hugging Face's hidden states, pooled by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from worker.messages import (
    Embedding,
    EmbeddingInfo,
    EmbedRequest,
    GenerateRequest,
    OrderDone,
    ReleaseMemory,
    ResumeMemory,
    SamplingParams,
    TokenChunk,
    UpdateWeights,
)
from worker.models.config import ModelConfigError

from ..checkpoints import VOCAB_SIZE, hf_reference, make_checkpoint, write_gguf
from .embedder import Embedder

_GENERATOR = torch.Generator().manual_seed(11)
# From 3 on: Hugging Face's RoBERTa does not count the padding token as a place.
TEXTS = [
    torch.randint(3, VOCAB_SIZE, (n,), generator=_GENERATOR).tolist()
    for n in (40, 7, 100, 1, 64, 7, 33)
]
FAMILIES = ("llama3", "mistral_window", "qwen2", "qwen3", "bert", "xlm_roberta")
NOT_CAUSAL = ("bert", "xlm_roberta")
FLAGS = {"last": "lasttoken", "cls": "cls_token", "mean": "mean_tokens"}


def write_pooling(folder: Path, mode: str, normalize: bool) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"x.{kind}"} for path, kind in kinds[: 2 + normalize]]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    flags = json.dumps({f"pooling_mode_{FLAGS[mode]}": True})
    (folder / "1_Pooling" / "config.json").write_text(flags)


def hf_vectors(folder: Path, mode: str, normalize: bool) -> torch.Tensor:
    model = hf_reference(folder, head="embed")
    pooled = []
    for text in TEXTS:
        with torch.inference_mode():
            states = model(torch.tensor([text])).last_hidden_state[0]
        by_mode = {"last": states[-1], "cls": states[0], "mean": states.mean(0)}
        pooled.append(by_mode[mode])
    vectors = torch.stack(pooled)
    return F.normalize(vectors, dim=1) if normalize else vectors


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert F.cosine_similarity(found, expected).min() >= 0.9999
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", FLAGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_pooling(family, mode, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="embed")
    write_pooling(folder, mode, normalize=mode == "mean")
    expected = hf_vectors(folder, mode, normalize=mode == "mean")
    embedder = Embedder(folder, max_total_tokens=1024)
    assert embedder.ready.embedding == EmbeddingInfo("embedding", 64, normalized=mode == "mean")
    check(embedder.embed(TEXTS), expected)
    # All in one batch or in many give the same.
    for text, vector in zip(TEXTS, expected, strict=True):
        check(embedder.embed([text]), vector[None])


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("mode", FLAGS)
def test_chunks_of_sixteen_tokens(mode, page_size, overlap, tmp_path):
    folder = make_checkpoint(tmp_path, "llama3", head="embed")
    write_pooling(folder, mode, normalize=True)
    args = {"chunked_prefill_size": 16, "page_size": page_size, "max_total_tokens": 160}
    embedder = Embedder(folder, overlap=overlap, **args)
    for _ in range(2):  # the second time with rows that hold what was before
        check(embedder.embed(TEXTS), hf_vectors(folder, mode, normalize=True))
    steps = embedder.scheduler.counters.steps
    assert steps >= 2 * sum(map(len, TEXTS)) / 16 or mode == "last"  # whose prefixes are cached


@pytest.mark.parametrize("mode", FLAGS)
def test_a_prefix_is_reused_only_for_the_last_token(mode, tmp_path):
    folder = make_checkpoint(tmp_path, "qwen2", head="embed")
    write_pooling(folder, mode, normalize=False)
    embedder = Embedder(folder, max_total_tokens=1024)
    first = embedder.embed(TEXTS)
    torch.testing.assert_close(embedder.embed(TEXTS), first, atol=1e-5, rtol=1e-5)
    expected = [len(text) - 1 if mode == "last" else 0 for text in TEXTS]
    assert embedder.cached == expected
    longer = [*TEXTS[0], 5]
    embedder.embed([longer])
    assert embedder.cached == [len(TEXTS[0]) if mode == "last" else 0]


def test_a_decoder_without_causal_attention(tmp_path):
    folder = make_checkpoint(tmp_path, "qwen2", is_causal=False)
    embedder = Embedder(folder, is_embedding=True, chunked_prefill_size=16)
    check(embedder.embed(TEXTS), hf_vectors(folder, "last", normalize=True))
    assert embedder.cached == [0] * len(TEXTS)
    assert embedder.ready.kv_cache_bytes == 0


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_classifiers_and_rewards(family, labels, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="classify", num_labels=labels, pad_token_id=0)
    model = hf_reference(folder, head="classify")
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([text])).logits for text in TEXTS])
    embedder = Embedder(folder, max_total_tokens=1024, chunked_prefill_size=32)
    torch.testing.assert_close(embedder.embed(TEXTS), expected, atol=1e-4, rtol=1e-4)
    names = () if labels == 1 else ("LABEL_0", "LABEL_1", "LABEL_2")
    info = EmbeddingInfo("classification", labels, labels=names, pairs=family in NOT_CAUSAL)
    assert embedder.ready.embedding == info


def test_pairs_for_a_cross_encoder(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="classify", num_labels=1)
    types = [[0] * (len(text) // 2) + [1] * (len(text) - len(text) // 2) for text in TEXTS]
    model = hf_reference(folder, head="classify")
    with torch.inference_mode():
        expected = torch.cat(
            [
                model(torch.tensor([text]), token_type_ids=torch.tensor([kinds])).logits
                for text, kinds in zip(TEXTS, types, strict=True)
            ]
        )
    embedder = Embedder(folder)
    torch.testing.assert_close(embedder.embed(TEXTS, types), expected, atol=1e-4, rtol=1e-4)
    assert (embedder.embed(TEXTS) - expected).abs().max() > 0.01


def test_texts_with_types_and_without_share_a_batch(tmp_path):
    embedder = Embedder(make_checkpoint(tmp_path, "bert", head="embed"))
    types = [1] * len(TEXTS[0])
    apart = torch.cat((embedder.embed(TEXTS[:1], [types]), embedder.embed(TEXTS[1:2])))
    embedder.scheduler.add(EmbedRequest("a", TEXTS[0], types))
    embedder.scheduler.add(EmbedRequest("b", TEXTS[1]))
    both = {answer.rid: answer for answer in embedder.scheduler.step()}
    values = [bytearray(both[rid].values) for rid in ("a", "b")]
    found = torch.stack([torch.frombuffer(each, dtype=torch.float32) for each in values])
    torch.testing.assert_close(found, apart)


@pytest.mark.parametrize("family", ["qwen3", "xlm_roberta"])
def test_a_model_with_one_type_passes_over_types(family, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="embed")
    embedder = Embedder(folder, max_total_tokens=512)
    ones = [[1] * len(text) for text in TEXTS]
    torch.testing.assert_close(embedder.embed(TEXTS, ones), embedder.embed(TEXTS))


def test_an_encoder_packs_texts_up_to_the_budget(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="embed")
    embedder = Embedder(folder, max_prefill_tokens=300)
    steps = []
    for i in range(20):
        embedder.scheduler.add(EmbedRequest(f"r{i}", TEXTS[0]))
    while not embedder.scheduler.is_idle:
        embedder.scheduler.step()
        assert embedder.scheduler.launched is not None
        steps.append(len(embedder.scheduler.launched.prefills))
    assert steps == [7, 7, 6]  # of 40 tokens each


def test_a_text_may_fill_the_context(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="embed")
    embedder = Embedder(folder, context_length=40)
    assert embedder.ready.context_length == 40
    embedder.embed([TEXTS[0]])
    assert refusal(embedder, TEXTS[0] + [5]) == "The prompt has 41 tokens; it must fit in 40."


def refusal(embedder: Embedder, text: list[int], types: list[int] | None = None) -> str | None:
    (answer,) = embedder.scheduler.add(EmbedRequest("refused", text, types))
    assert isinstance(answer, Embedding)
    assert answer.failure is not None
    assert answer.failure.status == 400
    assert embedder.scheduler.is_idle
    return answer.failure.message


def test_what_does_not_make_sense_is_refused(tmp_path):
    embedder = Embedder(make_checkpoint(tmp_path, "bert", head="embed"))
    assert refusal(embedder, []) == "The prompt is empty."
    assert refusal(embedder, [5, 6], [0]) == "There are 1 token_type_ids for 2 tokens."
    message = "token_type_ids go from 0 to 1, not from 0 to 2."
    assert refusal(embedder, [5, 6], [0, 2]) == message


def test_the_wrong_kind_of_request_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path, "llama3")
    generates = Embedder(folder, max_total_tokens=512)
    assert generates.ready.embedding is None
    assert "--is-embedding" in (refusal(generates, TEXTS[0]) or "")
    embeds = Embedder(folder, is_embedding=True, max_total_tokens=512)
    request = GenerateRequest("r", TEXTS[0], SamplingParams(max_new_tokens=1))
    (answer,) = embeds.scheduler.add(request)
    assert isinstance(answer, TokenChunk)
    assert answer.finish is not None
    assert "it generates none" in (answer.finish.message or "")
    check(embeds.embed(TEXTS), hf_vectors(folder, "last", normalize=True))


@pytest.mark.parametrize("family", ["llama3", "bert"])
def test_aborted_texts_leave_nothing_behind(family, tmp_path):
    folder = make_checkpoint(tmp_path, family, head="embed")
    embedder = Embedder(folder, overlap=True, max_total_tokens=512, chunked_prefill_size=64)
    before = embedder.embed(TEXTS)
    for i, text in enumerate(TEXTS):
        embedder.scheduler.add(EmbedRequest(f"r{i}", text))
    embedder.scheduler.step()
    for i in range(len(TEXTS)):
        embedder.scheduler.abort(f"r{i}")
    assert embedder.scheduler.is_idle
    assert embedder.scheduler.step() == []
    check(embedder.embed(TEXTS), before)


def test_an_encoder_cannot_be_divided_among_ranks(tmp_path):
    from worker.models.config import check_divisible, load_model_config

    config = load_model_config(make_checkpoint(tmp_path, "bert", head="embed"))
    with pytest.raises(ModelConfigError, match="BertModel runs on one device only"):
        check_divisible(config, 2)


def test_dummy_weights(tmp_path):
    folder = make_checkpoint(tmp_path, "xlm_roberta", head="embed")
    (folder / "model.safetensors").unlink()
    vectors = Embedder(folder, load_format="dummy", random_seed=3).embed(TEXTS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))


@pytest.mark.parametrize("family", ["llama3", "bert"])
def test_other_weights_and_released_memory(family, tmp_path):
    first = make_checkpoint(tmp_path / "first", family, head="embed")
    second = make_checkpoint(tmp_path / "second", family, head="embed", seed=1)
    expected = Embedder(second, max_total_tokens=512).embed(TEXTS)
    embedder = Embedder(first, max_total_tokens=512)
    embedder.embed(TEXTS)
    for order in (UpdateWeights("u", str(second)), ReleaseMemory("a"), ResumeMemory("b")):
        done = embedder.scheduler.control(order)
        assert isinstance(done, OrderDone)
        assert done.success, done.message
    check(embedder.embed(TEXTS), expected)


def test_weights_quantized_to_fp8_hardly_turn_the_vectors(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="embed")
    exact = Embedder(folder).embed(TEXTS)
    found = Embedder(folder, quantization="fp8").embed(TEXTS)
    assert 0.99 < F.cosine_similarity(found, exact).min() < 0.99999


def test_a_gguf_file_embeds(tmp_path):
    folder = make_checkpoint(tmp_path / "hf", "qwen2")
    file = write_gguf(folder, tmp_path / "model.gguf")
    found = Embedder(file, is_embedding=True, max_total_tokens=512).embed(TEXTS)
    check(found, hf_vectors(folder, "last", normalize=True))
