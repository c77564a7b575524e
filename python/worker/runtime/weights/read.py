"""Weights of a running model as its checkpoint has them."""

from __future__ import annotations

import torch

from ...distributed.share import Share
from ...layers.slots import WeightSlot
from ...models.config import DecoderConfig
from ...models.model import Model


class UnknownWeightError(ValueError):
    """The model has no tensor of this name."""


@torch.no_grad()
def read_weight(model: Model, name: str, rows: int) -> torch.Tensor:
    """The first `rows` rows, or numbers of a vector, of the checkpoint's tensor `name`: float32.

    All ranks together. Weights that are kept as FP8 numbers come as these stand for. Raises
    UnknownWeightError, and where memory for a layer's plain weight lacks torch.OutOfMemoryError or,
    on the other ranks, OtherRankError.
    """
    slots = dict(model.weight_slots())
    config = model.config
    if (
        name == "lm_head.weight"
        and isinstance(config, DecoderConfig)
        and config.tie_word_embeddings
    ):
        name = "model.embed_tokens.weight"
    if name not in slots:
        raise UnknownWeightError(
            f"the model has no weight {name!r}; its first is {next(iter(slots))!r}"
        )
    slot = slots[name]
    if slot.layer is not None:
        of_layer = [named for named in slots.items() if named[1].layer is slot.layer]
        with model.parallel.together(next(model.parameters()).device):
            plain = slot.layer.plain_weight()
        slot = dict(slot.layer.over(plain, of_layer))[name]
    part, share = _first_rows(slot, rows)
    whole = part.float()
    if share is not None:
        whole = model.parallel.assemble(whole, share, slot.dim)
    return whole.cpu()


def _first_rows(slot: WeightSlot, rows: int) -> tuple[torch.Tensor, Share | None]:
    """What this rank has of the tensor's first `rows` rows, and which share of them that is."""
    if slot.share is None or slot.dim != 0:
        return slot.target[:rows], slot.share
    start, stop, total = (
        min(n, rows) for n in (slot.share.start, slot.share.stop, slot.share.total)
    )
    return slot.target[: stop - start], Share(start, stop, total)
