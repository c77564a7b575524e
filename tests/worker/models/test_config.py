"""Model configurations: what is read from config.json and GGUF metadata, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from worker.layers.rope_config import RopeConfig
from worker.models.config import ModelConfigError, load_model_config
from worker.models.config_gguf import ARCHITECTURES as IN_GGUF
from worker.models.config_hf import ARCHITECTURES as CONFIGURED
from worker.models.registry import build_model, supported_architectures

from ..checkpoints import FAMILIES, make_checkpoint, write_gguf

# What meta-llama/Llama-3.1-8B-Instruct publishes, but for keys that only training reads.
LLAMA_31 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def write(folder: Path, base: dict[str, Any] = LLAMA_31, **changes: Any) -> Path:
    """A folder with config.json: `base` with `changes`; a change to None removes the key."""
    raw = {key: value for key, value in (base | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def test_llama_31(tmp_path: Path) -> None:
    config = load_model_config(write(tmp_path))
    assert config.head_dim == 128
    assert config.rope == RopeConfig(
        500000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0
    )
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert config.weights_dtype == "bfloat16"
    flags = (config.qkv_bias, config.output_bias, config.mlp_bias, config.qk_norm)
    assert flags == (False, False, False, False)
    assert config.sliding_windows == (None,) * 32


def test_what_is_missing_takes_the_family_s_default(tmp_path: Path) -> None:
    keys = ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "rope_scaling")
    optional = dict.fromkeys((*keys, "rope_theta", "tie_word_embeddings", "eos_token_id"))
    config = load_model_config(write(tmp_path, **optional))
    assert config.num_kv_heads == 32
    assert config.rms_norm_eps == 1e-6
    assert config.max_position_embeddings == 2048
    assert config.rope == RopeConfig(10000.0)
    assert config.eos_token_ids == ()


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("LlamaForCausalLM", (True, True, True, False)),
        ("MistralForCausalLM", (False, False, False, False)),
        ("Qwen2ForCausalLM", (True, False, False, False)),
        ("Qwen3ForCausalLM", (True, True, False, True)),
    ],
)
def test_biases_and_norms_of_each_family(
    tmp_path: Path, architecture: str, expected: tuple[bool, ...]
) -> None:
    raw = write(tmp_path, architectures=[architecture], attention_bias=True, mlp_bias=True)
    config = load_model_config(raw)
    found = (config.qkv_bias, config.output_bias, config.mlp_bias, config.qk_norm)
    assert found == expected


def test_end_tokens_come_from_both_files_once_each(tmp_path: Path) -> None:
    write(tmp_path, eos_token_id=7)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    assert load_model_config(tmp_path).eos_token_ids == (7, 9)


def test_windows_of_each_family(tmp_path: Path) -> None:
    def windows(**changes: Any) -> tuple[int | None, ...]:
        changes = {"num_hidden_layers": 3, "sliding_window": 64} | changes
        return load_model_config(write(tmp_path, **changes)).sliding_windows

    assert windows(architectures=["LlamaForCausalLM"]) == (None, None, None)
    assert windows(architectures=["MistralForCausalLM"]) == (64, 64, 64)
    qwen: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"]}
    assert windows(**qwen) == (None, None, None)
    assert windows(**qwen, use_sliding_window=True, max_window_layers=1) == (None, 64, 64)
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(**qwen, use_sliding_window=True, layer_types=types) == (64, None, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported; supported are Llama, Mistral, Qwen2, Qwen3 (",
        ),
        ({"architectures": None}, "architecture none is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by 'gptq'"),
        ({"hidden_size": None}, "hidden_size must be a positive integer, not None"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive integer, not -1"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, not 'many'"),
        ({"num_key_value_heads": 5}, "32 attention heads cannot be shared out over 5"),
        ({"head_dim": 65}, "head_dim must be even for rope, not 65"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_scaling": {"type": "longrope"}}, "rope scaling 'longrope': not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope scaling 'linear' lacks 'factor'"),
        ({"rope_scaling": {"type": "yarn", "factor": "x"}}, "rope scaling 'yarn': could not"),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 4,
                "use_sliding_window": True,
                "layer_types": ["full_attention"],
            },
            "layer_types names 1 layers, num_hidden_layers says 32",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelConfigError) as error:
        load_model_config(write(tmp_path, **changes))
    assert message in str(error.value)
    assert str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_that_hold_no_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"nowhere: no such file or folder"):
        load_model_config(tmp_path / "nowhere")
    with pytest.raises(ModelConfigError, match=r"no config.json and no .gguf file"):
        load_model_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelConfigError, match=r"config.json: cannot be read: Expecting"):
        load_model_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelConfigError, match=r"must hold a JSON object, not a list"):
        load_model_config(tmp_path)


def test_reading_a_configuration_imports_no_torch(tmp_path: Path) -> None:
    write(tmp_path)
    code = (
        "import sys; from worker.models.config import load_model_config; "
        f"load_model_config({str(tmp_path)!r}); sys.exit('torch' in sys.modules)"
    )
    path = Path(sys.modules["worker"].__path__[0]).parent
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(path)})


def test_every_configured_architecture_is_registered() -> None:
    # Without its head, a masked language model is its family's plain one.
    assert set(supported_architectures()) == {a for a in CONFIGURED if "MaskedLM" not in a}
    assert set(IN_GGUF.values()) <= set(CONFIGURED)


def test_dynamic_rope_ends_where_its_frequencies_would_change(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = load_model_config(make_checkpoint(tmp_path, "llama2", rope_parameters=rope))
    assert build_model(config, torch.float32).max_positions == 256
    with pytest.raises(ModelConfigError, match="sequences end at 256 tokens, not at 512"):
        build_model(config, torch.float32, max_positions=512)


# ===== GGUF =====


@pytest.mark.parametrize("family", ["llama2", "mistral", "qwen2", "qwen3"])
def test_gguf_metadata_make_the_same_configuration(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "hf", family)
    expected = load_model_config(folder)
    found = load_model_config(write_gguf(folder, tmp_path / "model.gguf"))
    for name in ("hidden_size", "num_kv_heads", "head_dim", "vocab_size", "sliding_windows"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("qkv_bias", "qk_norm", "tie_word_embeddings", "rope", "bos_token_id"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.rms_norm_eps == np.float32(expected.rms_norm_eps)
    assert found.eos_token_ids == (2, 3)  # end of sequence and end of turn


def test_a_folder_stands_for_its_only_gguf_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "hf", "llama2")
    (tmp_path / "gguf").mkdir()
    file = write_gguf(folder, tmp_path / "gguf" / "a.gguf")
    assert load_model_config(file.parent) == load_model_config(file)
    write_gguf(folder, tmp_path / "gguf" / "b.gguf")
    with pytest.raises(ModelConfigError, match=r"several GGUF files \(a.gguf, b.gguf\)"):
        load_model_config(file.parent)


def test_gguf_rope_scaling(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "hf", "llama2")

    def rope(change: Any) -> RopeConfig:
        path = write_gguf(folder, tmp_path / "model.gguf", change=change)
        return load_model_config(path).rope

    def linear(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)

    def yarn(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(64)

    def longrope(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)

    def factors(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.arange(1, 9, dtype=np.float32))

    assert rope(linear) == RopeConfig(10000.0, "linear", 2.0)
    assert rope(yarn) == RopeConfig(10000.0, "yarn", 4.0, 64)
    assert rope(factors).frequency_factors == tuple(range(1, 9))
    with pytest.raises(ModelConfigError, match="rope scaling 'longrope' is not supported"):
        rope(longrope)


def test_gguf_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelConfigError, match="'gemma3' is not supported; supported are llama"):
        load_model_config(path)

    folder = make_checkpoint(tmp_path / "hf", "llama2")
    write_gguf(folder, path, change=lambda writer: writer.add_expert_count(8))
    with pytest.raises(ModelConfigError, match="a mixture of 8 experts is not supported"):
        load_model_config(path)
    write_gguf(folder, path, change=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(ModelConfigError, match=r"one of 3 parts .* llama-gguf-split --merge"):
        load_model_config(path)


def test_damaged_gguf_files_are_refused_wherever_their_header_ends(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "hf", "llama2")
    whole = write_gguf(folder, tmp_path / "model.gguf").read_bytes()
    header = whole.index(b"output_norm.weight")
    for length in (*range(0, 200, 7), *range(200, header, 397)):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(ModelConfigError, match=r"cut\.gguf"):
            load_model_config(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelConfigError, match="not a GGUF file"):
        load_model_config(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x00\x00\x00\x03" + bytes(100))
    with pytest.raises(ModelConfigError, match="version 50331648 is not supported"):
        load_model_config(tmp_path / "cut.gguf")


def test_all_families_of_the_tests_are_read(tmp_path: Path) -> None:
    for family in FAMILIES:
        assert load_model_config(make_checkpoint(tmp_path / family, family)).num_layers == 3
