"""Model configuration from the metadata of a GGUF file."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..gguf_file import GGUFError, GGUFFile
from ..layers.rope_config import RopeConfig
from .config import DecoderConfig, ModelConfigError, check_config
from .config_pooling import Mode, embedding_pooling

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_END_TOKENS = ("eos_token_id", "eot_token_id")
_GGML_F32 = 0
# By number in llama.h, enum llama_pooling_type.
_POOLING_TYPES: dict[int | None, Mode] = {1: "mean", 2: "cls", 3: "last"}


def load(path: Path, is_embedding: bool = False) -> DecoderConfig:
    """Read the configuration of the GGUF file at `path`. Raises ModelConfigError.

    With `is_embedding` it is that of an embedding model.
    """
    try:
        file = GGUFFile(path)
    except GGUFError as error:
        raise ModelConfigError(str(error)) from None
    name = file.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ModelConfigError(
            f"{path}: GGUF architecture {name!r} is not supported; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    keys = _Keys(file, name)
    _refuse_unsupported(file, keys)
    config = _config(file, keys)
    if is_embedding:
        mode = _POOLING_TYPES.get(keys.get("pooling_type"), "last")
        config = replace(
            config,
            architecture=config.architecture.replace("ForCausalLM", "Model"),
            pooling=embedding_pooling(path.parent, mode),
        )
    return check_config(config, path)


class _Keys:
    """The architecture's metadata by the part of the key behind its name."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.path, self.architecture, self._metadata = file.path, architecture, file.metadata

    def get(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"{self.architecture}.{key}", default)

    def required(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelConfigError(f"{self.path}: GGUF metadata lacks {self.architecture}.{key}")
        if isinstance(value, list):  # one value a layer
            if len(set(value)) != 1:
                raise ModelConfigError(
                    f"{self.path}: layers that differ in {key} are not supported"
                )
            return value[0]
        return value


def _refuse_unsupported(file: GGUFFile, keys: _Keys) -> None:
    if (parts := file.metadata.get("split.count", 1)) > 1:
        raise ModelConfigError(
            f"{file.path}: one of {parts} parts of a split GGUF file; "
            "merge them with llama-gguf-split --merge"
        )
    if experts := keys.get("expert_count"):
        raise ModelConfigError(f"{file.path}: a mixture of {experts} experts is not supported")


def _config(file: GGUFFile, keys: _Keys) -> DecoderConfig:
    heads, hidden = keys.required("attention.head_count"), keys.required("embedding_length")
    layers = keys.required("block_count")
    head_dim = keys.get("attention.key_length") or hidden // heads
    rotated = keys.get("rope.dimension_count") or head_dim
    if rotated != head_dim:
        raise ModelConfigError(
            f"{file.path}: rope over {rotated} of {head_dim} dimensions is not supported"
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelConfigError(
            f"{file.path}: no token embeddings (token_embd.weight): not a language model"
        )
    has_key_heads = keys.get("attention.head_count_kv") is not None
    return DecoderConfig(
        architecture=ARCHITECTURES[keys.architecture],
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        intermediate_size=keys.required("feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=keys.required("attention.head_count_kv") if has_key_heads else heads,
        head_dim=head_dim,
        rms_norm_eps=keys.required("attention.layer_norm_rms_epsilon"),
        rope=_rope(file, keys, head_dim),
        max_position_embeddings=keys.required("context_length"),
        is_causal=keys.get("attention.causal", True),
        tie_word_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_down.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        sliding_windows=(None,) * layers,
        bos_token_id=file.metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=_eos_token_ids(file),
    )


def _eos_token_ids(file: GGUFFile) -> tuple[int, ...]:
    ids = (file.metadata.get(f"tokenizer.ggml.{key}") for key in _END_TOKENS)
    return tuple(dict.fromkeys(id for id in ids if id is not None))


def _rope(file: GGUFFile, keys: _Keys, head_dim: int) -> RopeConfig:
    theta = float(keys.get("rope.freq_base", 10000.0))
    if "rope_freqs.weight" in file.tensors:
        return RopeConfig(theta, "factors", frequency_factors=_frequency_factors(file, head_dim))
    kind = keys.get("rope.scaling.type", "none")
    factor = float(keys.get("rope.scaling.factor") or 1.0)
    if kind == "none":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, kind, factor)
    if kind == "yarn":
        original = keys.get("rope.scaling.original_context_length") or keys.required(
            "context_length"
        )
        return RopeConfig(theta, kind, factor, original)
    raise ModelConfigError(
        f"{file.path}: rope scaling {kind!r} is not supported; linear and yarn are"
    )


def _frequency_factors(file: GGUFFile, head_dim: int) -> tuple[float, ...]:
    """Llama 3's rope scaling as llama.cpp writes it: one divisor a frequency, float32."""
    tensor = file.tensors["rope_freqs.weight"]
    if tensor.ggml_type != _GGML_F32 or tensor.shape != (head_dim // 2,):
        raise ModelConfigError(
            f"{file.path}: rope_freqs.weight must hold {head_dim // 2} float32 values"
        )
    try:
        return struct.unpack_from(f"<{tensor.elements}f", file.data, tensor.offset)
    except struct.error:
        raise ModelConfigError(
            f"{file.path}: truncated: rope_freqs.weight lies behind its end"
        ) from None
