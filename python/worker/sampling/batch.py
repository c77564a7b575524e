"""Sampling parameters of one step's requests, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MASK = (1 << 64) - 1


def noise_key(seed: int, position: int) -> int:
    """A key of 63 bits for the noise of the token at `position` of a request (splitmix64).

    The same seed and position give the same noise, whatever else is in the batch and however often
    the request was retracted.
    """
    x = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return (x ^ (x >> 31)) >> 1


@dataclass(frozen=True)
class SamplingRow:
    """How one row of logits becomes a token. `key` is its `noise_key`, unused when greedy."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    key: int


@dataclass(frozen=True)
class SamplingBatch:
    """One row per token to sample; None stands for a parameter that is neutral in every row.

    temperatures, top_ps, min_ps: [rows] float32; greedy rows carry temperature 1 and are named in
        `greedy` [rows] bool
    top_ks: [rows] int64, the vocabulary's size where there is no limit
    keys: [rows] int64
    """

    temperatures: torch.Tensor
    greedy: torch.Tensor | None
    top_ps: torch.Tensor | None
    top_ks: torch.Tensor | None
    min_ps: torch.Tensor | None
    keys: torch.Tensor

    @classmethod
    def build(
        cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
    ) -> SamplingBatch | None:
        """None when every row is greedy."""
        greedy = [row.temperature == 0.0 for row in rows]
        if all(greedy):
            return None

        def tensor(values: list, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

        # A greedy row in a mixed batch is overwritten by its argmax: its filters do not matter.
        top_ps = [1.0 if g else row.top_p for g, row in zip(greedy, rows, strict=True)]
        top_ks = [
            vocab_size if g or row.top_k < 0 else min(row.top_k, vocab_size)
            for g, row in zip(greedy, rows, strict=True)
        ]
        min_ps = [0.0 if g else row.min_p for g, row in zip(greedy, rows, strict=True)]
        temperatures = [1.0 if g else row.temperature for g, row in zip(greedy, rows, strict=True)]
        return cls(
            temperatures=tensor(temperatures, torch.float32),
            greedy=tensor(greedy, torch.bool) if any(greedy) else None,
            top_ps=tensor(top_ps, torch.float32) if min(top_ps) < 1.0 else None,
            top_ks=tensor(top_ks, torch.int64) if min(top_ks) < vocab_size else None,
            min_ps=tensor(min_ps, torch.float32) if max(min_ps) > 0.0 else None,
            keys=tensor([row.key for row in rows], torch.int64),
        )
