"""Model configuration from a Hugging Face folder: config.json, generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..layers.rope_config import RopeConfig
from .config import ModelConfig, ModelConfigError, check_sizes, is_positive_int


@dataclass(frozen=True)
class Family:
    """What the keys of config.json mean in one architecture, and what holds when they are missing.

    `biased_by_key`: the key `attention_bias` says whether q, k, v and the output projection have
    biases; otherwise q, k, v have them if `qkv_bias`, and the output never. `windowed`: "all"
    layers when `sliding_window` is set, "chosen" ones by `use_sliding_window` and `layer_types` or
    `max_window_layers`, or "none".
    """

    max_positions: int
    head_dim: int | None = None
    biased_by_key: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    windowed: str = "none"


FAMILIES = {
    "LlamaForCausalLM": Family(max_positions=2048, biased_by_key=True),
    "MistralForCausalLM": Family(max_positions=131072, windowed="all"),
    "Qwen2ForCausalLM": Family(max_positions=32768, qkv_bias=True, windowed="chosen"),
    "Qwen3ForCausalLM": Family(
        max_positions=32768, head_dim=128, biased_by_key=True, qk_norm=True, windowed="chosen"
    ),
}


def load(folder: Path) -> ModelConfig:
    """Read `folder`/config.json. Raises ModelConfigError."""
    source = folder / "config.json"
    raw = _read_json(source)
    architecture, family = _family(raw, source)
    _refuse_unsupported(raw, source)
    hidden, heads = (
        _required(raw, "hidden_size", source),
        _required(raw, "num_attention_heads", source),
    )
    layers = _required(raw, "num_hidden_layers", source)
    max_positions = _default(raw, "max_position_embeddings", family.max_positions)
    bias = bool(raw.get("attention_bias", False)) if family.biased_by_key else None
    config = ModelConfig(
        architecture=architecture,
        vocab_size=_required(raw, "vocab_size", source),
        hidden_size=hidden,
        intermediate_size=_required(raw, "intermediate_size", source),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_default(raw, "num_key_value_heads", heads),
        head_dim=raw.get("head_dim") or family.head_dim or hidden // heads,
        rms_norm_eps=_default(raw, "rms_norm_eps", 1e-6),
        rope=read_rope(raw, max_positions, source),
        max_position_embeddings=max_positions,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias if bias is None else bias,
        output_bias=bool(bias),
        mlp_bias=architecture == "LlamaForCausalLM" and bool(raw.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        sliding_windows=_sliding_windows(raw, family, layers),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=_eos_token_ids(raw, folder),
        weights_dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )
    return check_sizes(config, source)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelConfigError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def _family(raw: Mapping[str, Any], source: Path) -> tuple[str, Family]:
    architectures = raw.get("architectures") or []
    for architecture in architectures:
        if architecture in FAMILIES:
            return architecture, FAMILIES[architecture]
    found = ", ".join(architectures) or "none"
    raise ModelConfigError(
        f"{source}: architecture {found} is not supported; "
        f"supported are {', '.join(sorted(FAMILIES))}"
    )


def _refuse_unsupported(raw: Mapping[str, Any], source: Path) -> None:
    activation = _default(raw, "hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelConfigError(f"{source}: activation {activation!r} is not supported; silu is")
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "unnamed")
        raise ModelConfigError(
            f"{source}: weights quantized by {method!r} are not supported; "
            "use an unquantized or a GGUF checkpoint"
        )


def _required(raw: Mapping[str, Any], key: str, source: Path) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or not is_positive_int(value):
        raise ModelConfigError(f"{source}: {key} must be a positive integer, not {value!r}")
    return value


def _default(raw: Mapping[str, Any], key: str, default: Any) -> Any:
    value = raw.get(key)
    return default if value is None else value


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
    first = _default(raw, "max_window_layers", 28)
    return tuple(window if layer >= first else None for layer in range(layers))


def _eos_token_ids(raw: Mapping[str, Any], folder: Path) -> tuple[int, ...]:
    sources = [raw]
    if (folder / "generation_config.json").is_file():
        sources.append(_read_json(folder / "generation_config.json"))
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
    theta = float(_default(scaling, "rope_theta", _default(raw, "rope_theta", 10000.0)))
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    partial = _default(
        scaling, "partial_rotary_factor", _default(raw, "partial_rotary_factor", 1.0)
    )
    if partial != 1.0:
        raise ModelConfigError(f"{source}: partial_rotary_factor {partial} is not supported")
    original = _default(scaling, "original_max_position_embeddings", max_positions)
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
