"""Weights from GGUF: block formats against the `gguf` package, models against Hugging Face."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from worker.models.config import load_model_config
from worker.models.model import Model
from worker.models.registry import build_model
from worker.runtime.weights import WeightLoadError, load_weights
from worker.runtime.weights.dequantize import (
    UnknownQuantizationError,
    dequantize,
    stored_bytes,
)

from ..checkpoints import hf_logits, hf_reference, make_checkpoint, weights_of, write_gguf
from ..models.dense_attention import logits

TOKENS = list(range(3, 43))


def loaded(path: Path, dtype: torch.dtype = torch.float32) -> Model:
    model = build_model(load_model_config(path), dtype)
    load_weights(model, path)
    return model


# ===== Block formats =====

UNPACKED_HERE = [
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0,
    Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
]  # fmt: skip
BY_THE_PACKAGE = [Kind.Q2_K, Kind.Q3_K, Kind.IQ4_NL, Kind.IQ4_XS]


@pytest.mark.parametrize("kind", UNPACKED_HERE + BY_THE_PACKAGE, ids=lambda kind: kind.name)
def test_blocks_are_unpacked_as_the_gguf_package_does(kind: Kind) -> None:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    stored = np.random.default_rng(0).integers(0, 256, (50, 3 * size), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random bits make infinite scales, too
        expected = torch.from_numpy(gguf.dequantize(stored, kind))
        found = dequantize(torch.from_numpy(stored), kind)
    assert found.shape == (50, 3 * elements)
    torch.testing.assert_close(found, expected, atol=0, rtol=0, equal_nan=True)
    assert stored_bytes(kind, (50, 3 * elements)) == stored.size


def test_formats_that_nothing_unpacks_are_refused() -> None:
    with pytest.raises(UnknownQuantizationError, match="unknown quantization: GGML type 99"):
        stored_bytes(99, (4, 256))
    with pytest.raises(UnknownQuantizationError, match="quantization Q8_K cannot be unpacked"):
        stored_bytes(Kind.Q8_K, (4, 256))
    with pytest.raises(UnknownQuantizationError, match="rows of 33 elements do not divide"):
        stored_bytes(Kind.Q8_0, (4, 33))


# ===== Models =====


@pytest.mark.parametrize("family", ["llama2", "llama_biases", "mistral", "qwen2", "qwen3"])
def test_gguf_weights_equal_those_that_they_were_made_from(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, family)
    path = write_gguf(folder, tmp_path / "model.gguf")
    expected, found = (weights_of(loaded(place)) for place in (folder, path))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=0, rtol=0)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q4_1, Kind.Q8_0], ids=lambda kind: kind.name)
def test_quantized_llama_gives_hugging_face_s_logits(kind: Kind, tmp_path: Path) -> None:
    path = write_gguf(make_checkpoint(tmp_path, "llama2"), tmp_path / "model.gguf", kind)
    expected = hf_logits(hf_reference(path), TOKENS)
    torch.testing.assert_close(logits(loaded(path), TOKENS), expected, atol=1e-4, rtol=0)


def test_weights_arrive_in_the_model_s_dtype(tmp_path: Path) -> None:
    path = write_gguf(make_checkpoint(tmp_path, "qwen3"), tmp_path / "model.gguf", Kind.Q8_0)
    exact, rounded = weights_of(loaded(path)), weights_of(loaded(path, torch.bfloat16))
    assert rounded.keys() == exact.keys()
    for name, weight in rounded.items():
        assert torch.equal(weight, exact[name].to(torch.bfloat16)), name


def test_tensors_larger_than_a_chunk_are_whole(tmp_path: Path, monkeypatch) -> None:
    path = write_gguf(make_checkpoint(tmp_path, "llama2"), tmp_path / "model.gguf", Kind.Q8_0)
    expected = weights_of(loaded(path))
    monkeypatch.setattr("worker.runtime.weights.gguf_source._CPU_CHUNK", 7 * 64)
    for name, weight in weights_of(loaded(path)).items():
        assert torch.equal(weight, expected[name]), name


def test_llama3_frequencies_in_the_file_scale_rope(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama3")
    scaled, plain = loaded(folder), load_model_config(folder).rope

    def add_factors(writer: gguf.GGUFWriter) -> None:
        from worker.layers.rope import RopeConfig, inverse_frequencies

        unscaled, _ = inverse_frequencies(RopeConfig(plain.theta), 16)
        frequencies, _ = inverse_frequencies(plain, 16)
        writer.add_tensor("rope_freqs.weight", (unscaled / frequencies).numpy())

    path = write_gguf(folder, tmp_path / "model.gguf", change=add_factors)
    torch.testing.assert_close(
        logits(loaded(path), TOKENS), logits(scaled, TOKENS), atol=1e-5, rtol=0
    )


def test_a_folder_with_a_gguf_file_is_loaded(tmp_path: Path) -> None:
    write_gguf(make_checkpoint(tmp_path / "hf", "llama2"), tmp_path / "model.gguf")
    shutil.rmtree(tmp_path / "hf")
    loaded(tmp_path)


@pytest.mark.parametrize("missing_bytes", [1, 1000, 30000])
def test_truncated_files_are_refused(tmp_path: Path, missing_bytes: int) -> None:
    path = write_gguf(make_checkpoint(tmp_path / "hf", "llama2"), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    with pytest.raises(WeightLoadError, match=r"model\.gguf: truncated: tensor \S+ ends at byte"):
        loaded(path)


def test_unknown_tensors_and_formats_are_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "hf", "llama2")

    def refused(change: Any) -> str:
        path = write_gguf(folder, tmp_path / "model.gguf", change=change)
        with pytest.raises(WeightLoadError) as error:
            loaded(path)
        assert str(path) in str(error.value)
        return str(error.value)

    values = np.zeros(4, dtype=np.float32)
    stray = refused(lambda writer: writer.add_tensor("blk.0.ffn_stray.weight", values))
    assert "the model has no place for blk.0.ffn_stray.weight" in stray
    packed = np.zeros((4, 292), dtype=np.uint8)
    odd = refused(lambda writer: writer.add_tensor("odd.weight", packed, raw_dtype=Kind.Q8_K))
    assert "tensor odd.weight: quantization Q8_K cannot be unpacked" in odd


def test_queries_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "hf", "llama2")
    path = write_gguf(folder, tmp_path / "model.gguf")
    model = build_model(load_model_config(path), torch.float32)
    other = make_checkpoint(tmp_path / "other", "llama2", head_dim=32)
    write_gguf(other, path)
    with pytest.raises(WeightLoadError, match=r"q_proj.weight has the shape \[128, 64\]"):
        load_weights(model, path)
