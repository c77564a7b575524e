"""Weight slots: the memory that a checkpoint's tensors are copied into, by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..distributed.share import Share

if TYPE_CHECKING:
    from .stored_weight import StoredWeight


@dataclass(frozen=True)
class WeightSlot:
    """Memory for one tensor of a checkpoint or, where ranks divide it along `dim`, for a share.

    `layer` is the one whose tensor it is, if that may keep its weight in another form: the slots of
    a layer stand in a row, and can be had over plain memory.
    """

    target: torch.Tensor
    share: Share | None = None
    dim: int = 0
    layer: StoredWeight | None = None

    @property
    def shape(self) -> list[int]:
        """The shape that the checkpoint's tensor must have."""
        shape = list(self.target.shape)
        if self.share is not None:
            shape[self.dim] = self.share.total
        return shape

    def fill(self, weight: torch.Tensor) -> None:
        """Copy what this rank holds of `weight`, which has `shape`, and any dtype and device."""
        if self.share is not None:
            weight = weight.narrow(self.dim, self.share.start, len(self.share))
        self.target.copy_(weight)


Slots = Iterator[tuple[str, WeightSlot]]


def empty_weight(*shape: int) -> nn.Parameter:
    """A parameter whose values come later, in the default device and dtype."""
    return nn.Parameter(torch.empty(shape), requires_grad=False)
