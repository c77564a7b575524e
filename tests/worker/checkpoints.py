"""Tiny random checkpoints of every family, as folders and as GGUF, and their reference models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GgufConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from worker.models.model import Model

VOCAB_SIZE = 160

_TINY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    # Multi-head attention and an untied head: Llama 2.
    "llama2": (LlamaConfig, {"num_key_value_heads": 4}),
    # Scaled rope and tied embeddings: Llama 3.2, SmolLM2 but for the scaling.
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama_biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama_linear_rope": (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral": (MistralConfig, {"sliding_window": None}),
    # A window shorter than the prompts of the tests, and heads larger than hidden size / heads.
    "mistral_window": (MistralConfig, {"sliding_window": 12, "head_dim": 32}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2_yarn": (Qwen2Config, {"rope_parameters": YARN_ROPE}),
    # The last layer has a window.
    "qwen2_window": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
    ),
    "qwen3": (Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
}
ENCODERS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "bert": (BertConfig, {"pad_token_id": 0}),
    "roberta": (RobertaConfig, {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm_roberta": (XLMRobertaConfig, {"pad_token_id": 1, "type_vocab_size": 1}),
}

# What stands on top of the transformer.
HEADS = {
    "generate": AutoModelForCausalLM,
    "embed": AutoModel,
    "classify": AutoModelForSequenceClassification,
}


def make_checkpoint(
    folder: Path,
    family: str,
    max_shard_size: str = "1GB",
    seed: int = 0,
    head: str = "generate",
    **overrides: Any,
) -> Path:
    """Write a random float32 checkpoint of one of FAMILIES or ENCODERS to `folder`, and return it.

    `overrides` change its configuration. A small `max_shard_size` ("40KB") makes several files with
    an index.
    """
    kind, settings = (FAMILIES | ENCODERS)[family]
    config = kind(**(_TINY | settings | overrides))
    torch.manual_seed(seed)
    model = HEADS[head].from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases, which start as ones and zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def hf_reference(
    path: Path | str, dtype: torch.dtype = torch.float32, head: str = "generate"
) -> PreTrainedModel:
    """Hugging Face's model of the checkpoint at `path`, a folder or a GGUF file, on CPU."""
    path = Path(path)
    if path.suffix == ".gguf":
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
        )
    else:
        model = HEADS[head].from_pretrained(path, dtype=dtype)
    return model.eval()


def hf_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """Logits after every token, [tokens, vocab] float32."""
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].float()


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    """The memory of every weight slot, by its name in a checkpoint."""
    return {name: slot.target for name, slot in model.weight_slots()}


# ===== GGUF =====

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    folder: Path,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    change: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    """Convert the checkpoint in `folder` as llama.cpp does, and return `path`.

    Matrices are quantized to `kind`; `change` may add metadata or tensors of its own.
    """
    model = hf_reference(folder)
    config = model.config
    architecture = "llama" if config.model_type == "mistral" else config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, config)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        _add_tensor(writer, name, weight, config, architecture, kind)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if head_dim := getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
    writer.add_token_list([f"token {index}" for index in range(config.vocab_size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(3)


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    weight: torch.Tensor,
    config: Any,
    architecture: str,
    kind: gguf.GGMLQuantizationType,
) -> None:
    values = weight.float().numpy()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    stem, _, suffix = name.rpartition(".")
    projection = stem.rpartition(".")[2]
    if (
        architecture == "llama" and projection in heads
    ):  # llama.cpp interleaves the halves of each head
        halves = values.reshape(heads[projection], 2, -1, *values.shape[1:])
        values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        gguf_name = f"blk.{layer}.{_GGUF_NAMES[part]}.{suffix}"
    else:
        gguf_name = f"{_GGUF_NAMES[stem]}.{suffix}"
    if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(gguf_name, values)
    else:
        writer.add_tensor(gguf_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
