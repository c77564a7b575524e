"""Weights of a GGUF file: renamed as Hugging Face names them, dequantized on the model's device."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ...gguf_file import GGUFError, GGUFFile, GGUFTensor
from ...models.config import ModelConfig
from ...models.model import WeightLoadError
from .dequantize import UnknownQuantizationError, dequantize, stored_bytes
from .source import TensorHeader, WeightSource

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IN_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_ROPE_TABLE = "rope_freqs.weight"  # read with the configuration

# Elements dequantized at once. On CPU so few that they stay in the cache, and that torch does not
# split each operation over threads, which would wait for each other when cores are busy.
_CPU_CHUNK, _GPU_CHUNK = 1 << 15, 1 << 24


def gguf_source(
    path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> WeightSource:
    """The tensors of the file, which come dequantized to `dtype` on `device`.

    Raises WeightLoadError.
    """
    try:
        file = GGUFFile(path)
    except GGUFError as error:
        raise WeightLoadError(str(error)) from None
    tensors = {_hf_name(name): each for name, each in file.tensors.items() if name != _ROPE_TABLE}
    for tensor in tensors.values():
        _check_stored(file, tensor)
    return WeightSource(
        {name: TensorHeader(tensor.shape) for name, tensor in tensors.items()},
        lambda name: _read(file, tensors[name], config, dtype, device),
    )


def _hf_name(name: str) -> str:
    """The tensor's Hugging Face name; an unknown one keeps its own, and the model refuses it."""
    if match := _IN_LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{_LAYER[part]}.{kind}" if part in _LAYER else name
    part, _, kind = name.rpartition(".")
    return f"{_TOP[part]}.{kind}" if part in _TOP else name


def _check_stored(file: GGUFFile, tensor: GGUFTensor) -> None:
    try:
        end = tensor.offset + stored_bytes(tensor.ggml_type, tensor.shape)
    except UnknownQuantizationError as error:
        raise WeightLoadError(f"{file.path}: tensor {tensor.name}: {error}") from None
    if end > len(file.data):
        raise WeightLoadError(
            f"{file.path}: truncated: tensor {tensor.name} ends at byte {end:,}, "
            f"the file at {len(file.data):,}"
        )


def _read(
    file: GGUFFile,
    tensor: GGUFTensor,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    size = stored_bytes(tensor.ggml_type, tensor.shape)
    data = torch.frombuffer(file.data, dtype=torch.uint8, count=size, offset=tensor.offset)
    weight = torch.empty(tensor.shape, dtype=dtype, device=device)
    flat = weight.view(-1, tensor.shape[-1])
    stored = data.view(flat.shape[0], -1)
    chunk = _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK
    step = max(1, chunk // flat.shape[1])
    for values, blocks in zip(flat.split(step), stored.split(step), strict=True):
        values.copy_(dequantize(blocks.to(device), tensor.ggml_type))
    return _unpermuted(weight, tensor.name, file.metadata["general.architecture"], config)


def _unpermuted(
    weight: torch.Tensor, name: str, architecture: str, config: ModelConfig
) -> torch.Tensor:
    """Undo llama.cpp's reordering of query and key rows, which only its "llama" architecture has.

    There a head's rows are interleaved (first half's, second half's, first half's, …); rope here
    pairs the halves.
    """
    match = _IN_LAYER.fullmatch(name)
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    if architecture != "llama" or match is None or match[2] not in heads:
        return weight
    if weight.shape[0] != heads[match[2]] * config.head_dim:
        return weight  # the model will refuse its shape
    pairs = weight.view(heads[match[2]], config.head_dim // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)
