"""Configuration of encoders of the BERT family, from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import EncoderConfig, ModelConfigError, check_config
from .config_json import default, required_size
from .config_pooling import classifier_pooling, embedding_pooling

FAMILIES = ("Bert", "Roberta", "XLMRoberta")
# The head of a masked language model is passed over.
HEADS = ("Model", "ForSequenceClassification", "ForMaskedLM")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


def load(raw: Mapping[str, Any], family: str, head: str, source: Path) -> EncoderConfig:
    """The configuration `raw` of the architecture `family` + `head`. Raises ModelConfigError."""
    _refuse_unsupported(raw, source)
    hidden = required_size(raw, "hidden_size", source)
    heads = required_size(raw, "num_attention_heads", source)
    # RoBERTa counts positions from behind that of padding.
    offset = 0 if family == "Bert" else default(raw, "pad_token_id", 1) + 1
    if head == "ForSequenceClassification":
        pooling = classifier_pooling(raw, source, "cls")
    else:
        head, pooling = "Model", embedding_pooling(source.parent, "mean")
    config = EncoderConfig(
        architecture=family + head,
        vocab_size=required_size(raw, "vocab_size", source),
        hidden_size=hidden,
        intermediate_size=required_size(raw, "intermediate_size", source),
        num_layers=required_size(raw, "num_hidden_layers", source),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=default(raw, "max_position_embeddings", 512) - offset,
        is_causal=False,
        pooling=pooling,
        weights_dtype=raw.get("dtype") or raw.get("torch_dtype"),
        layer_norm_eps=default(raw, "layer_norm_eps", 1e-12),
        activation=default(raw, "hidden_act", "gelu"),
        type_vocab_size=default(raw, "type_vocab_size", 2),
        position_offset=offset,
    )
    return check_config(config, source)


def _refuse_unsupported(raw: Mapping[str, Any], source: Path) -> None:
    activation = default(raw, "hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ModelConfigError(
            f"{source}: activation {activation!r} is not supported; {', '.join(ACTIVATIONS)} are"
        )
    positions = default(raw, "position_embedding_type", "absolute")
    if positions != "absolute":
        raise ModelConfigError(f"{source}: {positions} positions are not supported; absolute are")
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise ModelConfigError(f"{source}: a BERT that decodes is not supported")
