"""A checkpoint on disk: what its headers say, and how to read one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorHeader:
    """What is known of a tensor before it is read."""

    shape: Sequence[int]
    is_float: bool = True


@dataclass(frozen=True)
class WeightSource:
    """Tensors by their Hugging Face names: their headers, and `read`, which returns one of them.

    It may have another dtype than the model, and lie on another device.
    """

    headers: dict[str, TensorHeader]
    read: Callable[[str], torch.Tensor]
