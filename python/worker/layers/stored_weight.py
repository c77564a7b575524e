"""A layer's matrix, and the forms in which a device may keep it once it is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from .packed_weight import can_pack, pack
from .quantization import can_quantize, quantize
from .slots import Slots, WeightSlot


class StoredWeight(nn.Module, ABC):
    """A layer with a `weight` [outputs, inputs] that comes from a checkpoint.

    Once loaded, it can be kept as FP8 numbers, with `weight_scales` [outputs] float32, or packed
    for a CPU: then `weight` lies on the meta device, a shape without memory.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.weight_scales: nn.Parameter | None = None
        self._packed: torch.Tensor | None = None
        self._dtype = weight.dtype  # of the plain weight

    @abstractmethod
    def slots(self, name: str, weight: torch.Tensor | None = None) -> Slots:
        """Where the checkpoint's tensors go, behind the prefix `name`.

        With `weight`, into this plain matrix instead of the layer's; their order is always the
        same.
        """

    def quantize(self) -> None:
        """Replace the loaded weight by FP8 numbers, if its shape can be multiplied in FP8."""
        if can_quantize(self.weight):
            self._dtype = self.weight.dtype
            quantized, scales = quantize(self.weight)
            self.weight = nn.Parameter(quantized, requires_grad=False)
            self.weight_scales = nn.Parameter(scales, requires_grad=False)

    def pack(self) -> None:
        """Bring the loaded weight into the fastest layout, in the place of the plain one."""
        if can_pack(self.weight):
            self._dtype = self.weight.dtype
            self._packed = pack(self.weight)
            self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)

    # ===== after that =====

    def over(
        self, weight: torch.Tensor, slots: list[tuple[str, WeightSlot]]
    ) -> list[tuple[str, WeightSlot]]:
        """All `slots` of this layer, by the same names, over the plain matrix `weight`."""
        pairs = zip(slots, self.slots("", weight), strict=True)
        return [(name, slot) for (name, _), (_, slot) in pairs]

    def plain_weight(self) -> torch.Tensor:
        """The weight [outputs, inputs], in new memory if it is kept in another form."""
        if self.weight_scales is not None:
            return self.weight.float().mul_(self.weight_scales[:, None])
        return self._packed.to_dense() if self._packed is not None else self.weight

    def fresh_weight(self) -> torch.Tensor:
        """A plain matrix to be filled and handed to `keep`; the layer's own, if it is plain."""
        if self.weight.is_meta:
            return torch.empty(self.weight.shape, dtype=self._dtype)
        if self.weight_scales is None:
            return self.weight
        return torch.empty(self.weight.shape, dtype=self._dtype, device=self.weight.device)

    def keep(self, fresh: torch.Tensor) -> None:
        """Take over a filled `fresh_weight`, in the form that the weight had.

        On a GPU no address changes, for CUDA graphs know them.
        """
        if self.weight.is_meta:
            self._packed = pack(fresh)
        elif self.weight_scales is not None:
            quantized, scales = quantize(fresh)
            self.weight.copy_(quantized)
            self.weight_scales.copy_(scales)
