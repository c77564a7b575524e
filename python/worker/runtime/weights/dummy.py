"""Random weights, for measuring speed without a checkpoint."""

from __future__ import annotations

import torch

from ...layers.slots import WeightSlot


class DummyWeights:
    """Fills slot after slot, the same way for the same seed, rank and kind of device.

    Matrices get a standard deviation of 1 / √inputs, which keeps activations of order 1; norms get
    ones and biases zeros, so that nothing overflows in any dtype.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed + rank)

    def fill(self, name: str, slot: WeightSlot) -> None:
        """Fill the slot of the checkpoint's tensor `name`."""
        if slot.target.dim() == 1:
            slot.target.fill_(0.0 if name.endswith(".bias") else 1.0)
        else:
            bound = (3.0 / slot.shape[-1]) ** 0.5  # of the uniform distribution with that deviation
            slot.target.uniform_(-bound, bound, generator=self._generator)
