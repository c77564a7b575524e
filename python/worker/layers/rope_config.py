"""How a model's rotary position embedding is scaled. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: the base `theta`, and how the frequencies are scaled.

    `kind` is default, dynamic, linear, llama3, yarn or factors. `factor` divides frequencies
    (linear, llama3, yarn); `frequency_factors`, of head_dim / 2 entries, divide them one by one
    (factors); the rest is llama3's and yarn's.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    frequency_factors: tuple[float, ...] = ()
