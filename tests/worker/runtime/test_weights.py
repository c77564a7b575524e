"""Weights from safetensors and at random: what arrives, and which files are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worker.models.config import load_model_config
from worker.models.model import Model
from worker.models.registry import build_model
from worker.runtime.weights import WeightLoadError, load_weights

from ..checkpoints import make_checkpoint, weights_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("original"), "llama2")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def empty_model(folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    return build_model(load_model_config(folder), dtype)


def loaded(folder: Path, load_format: str = "auto", **options) -> Model:
    model = empty_model(folder)
    load_weights(model, folder, load_format, **options)
    return model


def refused(folder: Path, load_format: str = "auto") -> str:
    with pytest.raises(WeightLoadError) as error:
        loaded(folder, load_format)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def assert_holds(model: Model, folder: Path) -> None:
    slots = weights_of(model)
    stored = load_file(folder / "model.safetensors")
    assert slots.keys() == stored.keys()
    for name, weight in stored.items():
        torch.testing.assert_close(slots[name], weight.to(slots[name].dtype), atol=0, rtol=0)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# ===== safetensors =====


@pytest.mark.parametrize("load_format", ["auto", "safetensors"])
def test_every_tensor_arrives_in_its_slot(folder: Path, load_format: str) -> None:
    assert_holds(loaded(folder, load_format), folder)


def test_weights_are_converted_to_the_model_s_dtype(folder: Path) -> None:
    model = empty_model(folder, torch.bfloat16)
    load_weights(model, folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert_holds(model, folder)


def test_sharded_checkpoints_are_read_by_their_index(original: Path, tmp_path: Path) -> None:
    sharded = make_checkpoint(tmp_path, "llama2", max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    save_file({"stray": torch.zeros(1)}, sharded / "stray.safetensors")
    assert_holds(loaded(sharded), original)


def test_files_without_an_index_are_all_read_but_mistral_s_second_copy(folder: Path) -> None:
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    for part, chosen in {"a": names[:5], "b": names[5:]}.items():
        save_file({name: tensors[name] for name in chosen}, folder / f"{part}.safetensors")
    save_file({"tok_embeddings.weight": torch.zeros(1)}, folder / "consolidated.safetensors")
    whole.rename(folder / "whole")
    model = loaded(folder)
    (folder / "whole").rename(whole)
    assert_holds(model, folder)


def test_a_tied_checkpoint_may_hold_a_head_all_the_same(tmp_path: Path) -> None:
    tied = make_checkpoint(tmp_path, "llama3")
    change(tied, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(160, 64)}))
    model = loaded(tied)
    stored = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    hidden = torch.eye(64)[:2]
    torch.testing.assert_close(model.compute_logits(hidden), hidden @ stored.T)


def test_rope_tables_of_old_checkpoints_are_passed_over(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(8)}))
    loaded(folder)


def test_missing_tensors_are_named(folder: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    change(folder, lambda tensors: tensors.pop(name))
    assert f"the checkpoint lacks {name}" in refused(folder)


def test_many_missing_tensors_are_counted(folder: Path) -> None:
    def keep_one(tensors: dict[str, torch.Tensor]) -> None:
        for name in sorted(tensors)[1:]:
            del tensors[name]

    count = len(load_file(folder / "model.safetensors"))
    change(folder, keep_one)
    assert f"and {count - 4} more tensors" in refused(folder)


def test_left_over_tensors_are_named(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"vision.weight": torch.zeros(1)}))
    assert "the model has no place for vision.weight" in refused(folder)


def test_tensors_of_another_shape_are_named(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(63)}))
    assert "model.norm.weight has the shape [63], but the configuration asks for [64]" in refused(
        folder
    )


def test_a_tensor_given_twice_is_named(folder: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(64)}, folder / "second.safetensors")
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    assert "second.safetensors: the checkpoint holds model.norm.weight twice" in refused(folder)


def test_tensors_of_integers_are_named(folder: Path) -> None:
    name = "model.norm.weight"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(64, dtype=torch.int8)}))
    assert f"{name} does not hold floating-point numbers" in refused(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_files_are_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file}: truncated or damaged safetensors file" in refused(folder)


def test_git_lfs_pointers_are_recognized(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    (folder / "model.safetensors").write_bytes(pointer)
    assert "a Git LFS pointer, not weights: run git lfs pull" in refused(folder)


def test_a_shard_that_the_index_names_but_is_missing_is_named(tmp_path: Path) -> None:
    sharded = make_checkpoint(tmp_path, "llama2", max_shard_size="100KB")
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard}: missing" in refused(sharded)


def test_a_damaged_index_is_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": 3}))
    assert f"{index}: not an index of safetensors files" in refused(folder)


def test_folders_without_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no safetensors or GGUF weights" in refused(folder)
    assert "no safetensors files" in refused(folder, "safetensors")
    assert "no GGUF weights" in refused(folder, "gguf")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "pytorch_model.bin is in a format that is not read" in refused(folder)


def test_progress_rises_from_zero_to_one(folder: Path) -> None:
    told: list[float] = []
    loaded(folder, progress=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert len(told) > 10


# ===== dummy =====


def test_dummy_weights_depend_on_the_seed_alone(original: Path) -> None:
    first, again, other = (weights_of(loaded(original, "dummy", seed=seed)) for seed in (1, 1, 2))
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["model.layers.1.mlp.up_proj.weight"])


def test_dummy_weights_need_no_files(original: Path, tmp_path: Path) -> None:
    shutil.copy(original / "config.json", tmp_path)
    model = loaded(tmp_path, "dummy")
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("family", ["llama_biases", "qwen2", "qwen3"])
def test_dummy_weights_keep_activations_of_order_one(family: str, tmp_path: Path) -> None:
    weights = weights_of(loaded(make_checkpoint(tmp_path, family), "dummy"))
    for name, weight in weights.items():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.full_like(weight, 0.0 if ".bias" in name else 1.0))
        else:
            assert weight.std() == pytest.approx(weight.shape[-1] ** -0.5, rel=0.1)
