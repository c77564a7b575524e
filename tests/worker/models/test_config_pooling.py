"""Pooling: read from sentence-transformers' files, by default, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from worker.models.config import ModelConfigError, Pooling, load_model_config

from ..checkpoints import make_checkpoint, write_gguf

MODULES = [
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
]


def write_modules(folder: Path, modules: list[tuple[str, str]], **pooling: Any) -> Path:
    listed = [{"idx": i, "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture(params=["llama2", "bert"])
def folder(request, tmp_path) -> Path:
    return make_checkpoint(tmp_path, request.param, head="embed")


def pooling(folder: Path) -> Pooling | None:
    return load_model_config(folder).pooling


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_cls_token": True, "word_embedding_dimension": 64}, "cls"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_the_files_say_how(folder, given, mode):
    write_modules(folder, MODULES, **given)
    assert pooling(folder) == Pooling(mode, normalize=True)


def test_without_a_normalize_module_lengths_stay(folder):
    write_modules(folder, MODULES[:2], pooling_mode_mean_tokens=True)
    assert pooling(folder) == Pooling("mean", normalize=False)


def test_without_files_decoders_take_the_last_token_and_encoders_the_mean(tmp_path):
    decoder = make_checkpoint(tmp_path / "decoder", "qwen3", head="embed")
    assert pooling(decoder) == Pooling("last", normalize=True)
    encoder = make_checkpoint(tmp_path / "encoder", "xlm_roberta", head="embed")
    assert pooling(encoder) == Pooling("mean", normalize=True)


def test_a_model_that_generates_embeds_when_it_is_told_to(tmp_path):
    folder = make_checkpoint(tmp_path / "hf", "llama3")
    write_gguf(folder, tmp_path / "model.gguf")
    for path in (folder, tmp_path / "model.gguf"):
        config = load_model_config(path)
        assert (config.architecture, config.pooling) == ("LlamaForCausalLM", None)
        config = load_model_config(path, is_embedding=True)
        assert config.architecture == "LlamaModel"
        assert config.pooling == Pooling("last", normalize=True)


def test_the_longest_text_is_the_one_of_training(folder):
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 100}')
    found = pooling(folder)
    assert found is not None
    assert found.max_tokens == 100


@pytest.mark.parametrize(("family", "mode"), [("qwen2", "last"), ("roberta", "cls")])
def test_classifiers_have_labels_and_a_place_of_their_own(family, mode, tmp_path):
    names = {0: "sad", 1: "glad", 10: "both"}
    folder = make_checkpoint(tmp_path / "named", family, head="classify", id2label=names)
    assert pooling(folder) == Pooling(mode, labels=("sad", "glad", "both"))
    folder = make_checkpoint(tmp_path / "unnamed", family, head="classify")
    assert pooling(folder) == Pooling(mode, labels=("LABEL_0", "LABEL_1"))


@pytest.mark.parametrize(
    ("modules", "given", "message"),
    [
        (MODULES, {"pooling_mode_max_tokens": True}, "pooling max_tokens is not supported"),
        (MODULES, {"pooling_mode": "weightedmean"}, "pooling weightedmean is not supported"),
        (
            MODULES,
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling cls_token and mean_tokens is not supported",
        ),
        (MODULES, {}, "pooling by nothing is not supported"),
        ([*MODULES, ("3_Dense", "x.models.Dense")], {"pooling_mode": "cls"}, "module Dense is not"),
    ],
)
def test_other_ways_are_refused_by_name(folder, modules, given, message):
    write_modules(folder, modules, **given)
    with pytest.raises(ModelConfigError, match=message):
        load_model_config(folder)


def test_broken_files_are_named(folder):
    (folder / "modules.json").write_text('{"idx": 0}')
    with pytest.raises(ModelConfigError, match="modules.json: not a list of modules"):
        load_model_config(folder)


def test_a_model_without_causal_attention_only_embeds(tmp_path):
    folder = make_checkpoint(tmp_path, "qwen2", is_causal=False)
    with pytest.raises(ModelConfigError, match="nothing can be generated; --is-embedding"):
        load_model_config(folder)
    assert not load_model_config(folder, is_embedding=True).is_causal


def test_labels_without_numbers_are_refused(tmp_path):
    folder = make_checkpoint(tmp_path, "bert", head="classify")
    raw = json.loads((folder / "config.json").read_text()) | {"id2label": {"one": "sad"}}
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelConfigError, match="config.json: id2label must number the labels"):
        load_model_config(folder)


def test_a_gguf_file_says_how_it_embeds(tmp_path):
    folder = make_checkpoint(tmp_path / "hf", "qwen2")

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)

    file = write_gguf(folder, tmp_path / "model.gguf", change=change)
    config = load_model_config(file, is_embedding=True)
    assert (config.is_causal, config.pooling) == (False, Pooling("mean", normalize=True))
    with pytest.raises(ModelConfigError, match="nothing can be generated"):
        load_model_config(file)
