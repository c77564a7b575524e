"""Random weights, for measuring speed without a checkpoint."""

from __future__ import annotations

import torch

from ...models.decoder import Decoder


@torch.no_grad()
def fill_dummy(model: Decoder, seed: int) -> None:
    """Fill every weight, the same way for the same `seed`, rank and kind of device.

    Matrices get a standard deviation of 1 / √inputs, which keeps activations of order 1; norms get
    ones and biases zeros, so that nothing overflows in any dtype.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed + model.parallel.rank)
    for name, slot in model.weight_slots():
        if slot.target.dim() == 1:
            slot.target.fill_(0.0 if name.endswith(".bias") else 1.0)
        else:
            bound = (3.0 / slot.shape[-1]) ** 0.5  # of the uniform distribution with that deviation
            slot.target.uniform_(-bound, bound, generator=generator)
