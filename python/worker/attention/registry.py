"""Attention backends by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch

from .base import AttentionBackend, UnsupportedAttention

Factory = Callable[[list[torch.Tensor], list[torch.Tensor]], AttentionBackend]


def _torch_native() -> Factory:
    from .torch_native import TorchNativeBackend

    return TorchNativeBackend


def _triton() -> Factory:
    from .triton import TritonBackend

    return TritonBackend


def _flashinfer() -> Factory:
    from .flashinfer import FlashInferBackend

    return FlashInferBackend


def _flashinfer_fa3() -> Factory:
    from .flashinfer import FlashInferBackend

    return partial(FlashInferBackend, prefill_kernels="fa3")


ATTENTION_BACKENDS: dict[str, Callable[[], Factory]] = {
    "torch_native": _torch_native,
    "triton": _triton,
    "flashinfer": _flashinfer,
    "flashinfer_fa3": _flashinfer_fa3,
}


def attention_backend(
    name: str, k_cache: list[torch.Tensor], v_cache: list[torch.Tensor]
) -> AttentionBackend:
    """The backend `name` over the given cache tensors (one a layer, see the backend).

    Raises UnsupportedAttention if it does not run on their device or is not installed. On a CPU,
    Triton's interpreter, for tests, runs its kernels.
    """
    needs_gpu = name != "torch_native" and os.environ.get("TRITON_INTERPRET") != "1"
    if needs_gpu and k_cache[0].device.type == "cpu":
        raise UnsupportedAttention(
            f"--attention-backend {name} needs an NVIDIA GPU; on a CPU leave the option out"
        )
    return ATTENTION_BACKENDS[name]()(k_cache, v_cache)


def default_backend(device: torch.device) -> str:
    """The backend that was measured fastest on this kind of device."""
    return "triton" if device.type == "cuda" else "torch_native"
