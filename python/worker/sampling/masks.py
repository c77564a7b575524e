"""Which tokens may come next, where a grammar says so: applied in one go before sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .upload import upload


@dataclass(frozen=True)
class TokenMasks:
    """For some rows of a step's logits; written when all that does not need them is launched.

    rows: [n] int32, no two of them equal
    words: of a mask, for at least the vocabulary's tokens; token i is bit i % 32 of word i // 32
    write: is called with [n, words] int32 on the host; it may wait for the step before
    """

    rows: np.ndarray
    words: int
    write: Callable[[np.ndarray], None]

    def apply(self, logits: torch.Tensor) -> None:
        """Set the logits [count, vocab] of all other tokens to minus infinity, in place.

        The host does not wait for this on a GPU.
        """
        on_gpu = logits.is_cuda
        rows = upload(torch.from_numpy(self.rows), logits.device)
        masks = torch.empty((len(rows), self.words), dtype=torch.int32, pin_memory=on_gpu)
        self.write(masks.numpy())
        if on_gpu:
            from ..kernels.token_masks import apply_masks as kernel

            kernel(logits, rows, masks.to(logits.device, non_blocking=True))
        else:
            apply_masks(logits, rows, masks)


def apply_masks(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Set to minus infinity what is not allowed, in place; all are on the CPU.

    logits: [count, vocab] of any floating type
    rows, masks: [n] int32 and [n, words] int32, see `TokenMasks`
    """
    forbidden = np.unpackbits(
        ~masks.numpy().view(np.uint8), axis=1, count=logits.shape[1], bitorder="little"
    )
    for row, those in zip(rows.tolist(), torch.from_numpy(forbidden).view(torch.bool), strict=True):
        logits[row].masked_fill_(those, -torch.inf)
