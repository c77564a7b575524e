"""Weight slots: the memory that a checkpoint's tensors are copied into, by their names."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

Slots = Iterator[tuple[str, torch.Tensor]]


def empty_weight(*shape: int) -> nn.Parameter:
    """A parameter whose values come later, in the default device and dtype."""
    return nn.Parameter(torch.empty(shape), requires_grad=False)
