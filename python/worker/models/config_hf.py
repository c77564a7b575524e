"""Model configuration from a Hugging Face folder: config.json, generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..layers.rope_config import RopeConfig
from . import config_bert
from .config import DecoderConfig, ModelConfig, ModelConfigError, Pooling, check_config
from .config_json import default, read_object, required_size
from .config_pooling import classifier_pooling, embedding_pooling


@dataclass(frozen=True)
class Family:
    """What the keys of config.json mean in one family, and what holds when they are missing.

    `biased_by_key`: the key `attention_bias` says whether q, k, v and the output projection have
    biases; otherwise q, k, v have them if `qkv_bias`, and the output never. `mlp_biased_by_key`:
    the same for `mlp_bias`. `windowed`: "all" layers when `sliding_window` is set, "chosen" ones by
    `use_sliding_window` and `layer_types` or `max_window_layers`, or "none".
    """

    max_positions: int
    head_dim: int | None = None
    biased_by_key: bool = False
    mlp_biased_by_key: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    windowed: str = "none"


# An architecture is a family and a head.
FAMILIES = {
    "Llama": Family(max_positions=2048, biased_by_key=True, mlp_biased_by_key=True),
    "Mistral": Family(max_positions=131072, windowed="all"),
    "Qwen2": Family(max_positions=32768, qkv_bias=True, windowed="chosen"),
    "Qwen3": Family(
        max_positions=32768, head_dim=128, biased_by_key=True, qk_norm=True, windowed="chosen"
    ),
}
HEADS = ("ForCausalLM", "ForSequenceClassification", "Model")

_SUPPORTED = ((tuple(FAMILIES), HEADS), (config_bert.FAMILIES, config_bert.HEADS))

# Family and head by the name of the architecture.
ARCHITECTURES = {
    family + head: (family, head)
    for families, heads in _SUPPORTED
    for family in families
    for head in heads
}


def load(folder: Path, is_embedding: bool = False) -> ModelConfig:
    """Read `folder`/config.json. Raises ModelConfigError.

    With `is_embedding` a model that generates is taken for an embedding model.
    """
    source = folder / "config.json"
    raw = read_object(source)
    name, head = _architecture(raw, source)
    _refuse_quantized(raw, source)
    if name in config_bert.FAMILIES:
        return config_bert.load(raw, name, head, source)
    head = "Model" if head == "ForCausalLM" and is_embedding else head
    return _decoder(raw, name, head, source)


def _decoder(raw: Mapping[str, Any], name: str, head: str, source: Path) -> DecoderConfig:
    family = FAMILIES[name]
    _refuse_unsupported(raw, source)
    hidden, heads = (
        required_size(raw, "hidden_size", source),
        required_size(raw, "num_attention_heads", source),
    )
    layers = required_size(raw, "num_hidden_layers", source)
    max_positions = default(raw, "max_position_embeddings", family.max_positions)
    bias = bool(raw.get("attention_bias", False)) if family.biased_by_key else None
    config = DecoderConfig(
        architecture=name + head,
        vocab_size=required_size(raw, "vocab_size", source),
        hidden_size=hidden,
        intermediate_size=required_size(raw, "intermediate_size", source),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=default(raw, "num_key_value_heads", heads),
        head_dim=raw.get("head_dim") or family.head_dim or hidden // heads,
        rms_norm_eps=default(raw, "rms_norm_eps", 1e-6),
        rope=read_rope(raw, max_positions, source),
        max_position_embeddings=max_positions,
        is_causal=default(raw, "is_causal", True),
        pooling=_pooling(raw, head, source),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias if bias is None else bias,
        output_bias=bool(bias),
        mlp_bias=family.mlp_biased_by_key and bool(raw.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        sliding_windows=_sliding_windows(raw, family, layers),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=_eos_token_ids(raw, source.parent),
        weights_dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )
    return check_config(config, source)


def _architecture(raw: Mapping[str, Any], source: Path) -> tuple[str, str]:
    """Family and head."""
    architectures = raw.get("architectures") or []
    for architecture in architectures:
        if architecture in ARCHITECTURES:
            return ARCHITECTURES[architecture]
    found = ", ".join(architectures) or "none"
    supported = (f"{', '.join(names)} ({', '.join(heads)})" for names, heads in _SUPPORTED)
    raise ModelConfigError(
        f"{source}: architecture {found} is not supported; supported are {'; '.join(supported)}"
    )


def _pooling(raw: Mapping[str, Any], head: str, source: Path) -> Pooling | None:
    if head == "ForCausalLM":
        return None
    if head == "ForSequenceClassification":
        return classifier_pooling(raw, source, "last")
    return embedding_pooling(source.parent, "last")


def _refuse_quantized(raw: Mapping[str, Any], source: Path) -> None:
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "unnamed")
        raise ModelConfigError(
            f"{source}: weights quantized by {method!r} are not supported; "
            "use an unquantized or a GGUF checkpoint"
        )


def _refuse_unsupported(raw: Mapping[str, Any], source: Path) -> None:
    activation = default(raw, "hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelConfigError(f"{source}: activation {activation!r} is not supported; silu is")


def _sliding_windows(raw: Mapping[str, Any], family: Family, layers: int) -> tuple[int | None, ...]:
    window = raw.get("sliding_window")
    if window is None or family.windowed == "none":
        return (None,) * layers
    if family.windowed == "all":
        return (window,) * layers
    if not raw.get("use_sliding_window", False):
        return (None,) * layers
    if types := raw.get("layer_types"):
        return tuple(window if kind == "sliding_attention" else None for kind in types)
    first = default(raw, "max_window_layers", 28)
    return tuple(window if layer >= first else None for layer in range(layers))


def _eos_token_ids(raw: Mapping[str, Any], folder: Path) -> tuple[int, ...]:
    sources = [raw]
    if (folder / "generation_config.json").is_file():
        sources.append(read_object(folder / "generation_config.json"))
    ids: dict[int, None] = {}
    for source in sources:
        value = source.get("eos_token_id")
        ids.update(
            dict.fromkeys(value if isinstance(value, list) else [] if value is None else [value])
        )
    return tuple(ids)


def read_rope(raw: Mapping[str, Any], max_positions: int, source: Path) -> RopeConfig:
    """Read rope in either form: `rope_theta` and `rope_scaling`, or `rope_parameters` with both."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(default(scaling, "rope_theta", default(raw, "rope_theta", 10000.0)))
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    partial = default(scaling, "partial_rotary_factor", default(raw, "partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise ModelConfigError(f"{source}: partial_rotary_factor {partial} is not supported")
    original = default(scaling, "original_max_position_embeddings", max_positions)
    try:
        return _rope_of_kind(kind, theta, original, scaling)
    except KeyError as error:
        raise ModelConfigError(f"{source}: rope scaling {kind!r} lacks {error}") from None
    except (TypeError, ValueError) as error:
        raise ModelConfigError(f"{source}: rope scaling {kind!r}: {error}") from None


def _rope_of_kind(kind: str, theta: float, original: int, scaling: Mapping[str, Any]) -> RopeConfig:
    if kind == "default":
        return RopeConfig(theta)
    if kind == "dynamic":  # the frequencies change only beyond max_position_embeddings
        return RopeConfig(theta, kind)
    if kind == "linear":
        return RopeConfig(theta, kind, float(scaling["factor"]))
    if kind == "llama3":
        return RopeConfig(
            theta,
            kind,
            float(scaling["factor"]),
            original,
            low_freq_factor=float(scaling["low_freq_factor"]),
            high_freq_factor=float(scaling["high_freq_factor"]),
        )
    if kind == "yarn":
        return RopeConfig(
            theta,
            kind,
            float(scaling["factor"]),
            original,
            beta_fast=float(scaling.get("beta_fast") or 32.0),
            beta_slow=float(scaling.get("beta_slow") or 1.0),
            attention_factor=scaling.get("attention_factor"),
            mscale=scaling.get("mscale"),
            mscale_all_dim=scaling.get("mscale_all_dim"),
            truncate=scaling.get("truncate", True),
        )
    raise ValueError("not supported; default, dynamic, linear, llama3 and yarn are")
