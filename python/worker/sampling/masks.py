"""Which tokens may come next, where a grammar says so: applied in one go before sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .upload import upload


@dataclass(frozen=True)
class TokenMasks:
    """On the host, for some rows of a step's logits.

    rows: [n] int32, no two of them equal
    allowed: [n, ceil(vocab / 32)] int32; token i is bit i % 32 of word i // 32
    """

    rows: np.ndarray
    allowed: np.ndarray

    def apply(self, logits: torch.Tensor) -> None:
        """Set the logits [count, vocab] of all other tokens to minus infinity, in place.

        The host does not wait for a GPU.
        """
        words = torch.from_numpy(np.concatenate((self.rows[:, None], self.allowed), axis=1))
        words = upload(words, logits.device)
        if logits.is_cuda:
            from ..kernels.token_masks import apply_masks as kernel

            kernel(logits, words)
        else:
            apply_masks(logits, words)


def apply_masks(logits: torch.Tensor, words: torch.Tensor) -> None:
    """Set to minus infinity what is not allowed, in place.

    logits: [count, vocab] of any floating type
    words: [n, 1 + ceil(vocab / 32)] int32, the row and its mask, see `TokenMasks`
    """
    rows = words[:, 0].long()
    bits = words[:, 1:, None] >> torch.arange(32, dtype=torch.int32, device=words.device)
    forbidden = (bits & 1 == 0).flatten(1)[:, : logits.shape[1]]
    logits[rows] = logits[rows].masked_fill(forbidden, -torch.inf)
