"""Rotary position embedding: one table, gathered once a step, applied once a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from .rope_config import RopeConfig

# ===== Frequencies =====


def inverse_frequencies(config: RopeConfig, head_dim: int) -> tuple[torch.Tensor, float]:
    """Radians that each pair of dimensions turns by from one position to the next, scaled.

    Returns [head_dim / 2] float32 on CPU, and the factor that cosines and sines are multiplied by.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    plain = 1.0 / config.theta**exponents
    if config.kind in ("default", "dynamic"):
        return plain, 1.0
    if config.kind == "linear":
        return plain / config.factor, 1.0
    if config.kind == "factors":
        return plain / torch.tensor(
            config.frequency_factors, dtype=torch.float32, device="cpu"
        ), 1.0
    if config.kind == "llama3":
        return _llama3(plain, config), 1.0
    if config.kind == "yarn":
        return _yarn(plain, config, head_dim), _yarn_amplitude(config)
    raise ValueError(f"unknown kind of rope scaling: {config.kind!r}")


def _llama3(plain: torch.Tensor, config: RopeConfig) -> torch.Tensor:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, others blended."""
    wavelengths = 2 * math.pi / plain
    turns = config.original_max_positions / wavelengths  # within the original context
    low, high = config.low_freq_factor, config.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * plain / config.factor + kept * plain


def _yarn(plain: torch.Tensor, config: RopeConfig, head_dim: int) -> torch.Tensor:
    """YaRN (arXiv 2309.00071): fast dimensions are kept, slow ones stretched, a ramp between."""

    def dimension_of(turns: float) -> float:
        ratio = config.original_max_positions / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(config.theta))

    low, high = dimension_of(config.beta_fast), dimension_of(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    dimensions = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    ramp = ((dimensions - low) / (high - low or 0.001)).clamp(0.0, 1.0)
    return plain / config.factor * ramp + plain * (1 - ramp)


def _yarn_amplitude(config: RopeConfig) -> float:
    def amplitude(weight: float) -> float:
        return 0.1 * weight * math.log(config.factor) + 1.0 if config.factor > 1 else 1.0

    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return amplitude(config.mscale) / amplitude(config.mscale_all_dim)
    return amplitude(1.0)


# ===== RotaryEmbedding =====


@dataclass(frozen=True)
class Rotation:
    """How the tokens of one step are turned.

    table: [max_positions, 2, head_dim], of `RotaryEmbedding`; positions: [tokens], of any integer
    """

    table: torch.Tensor
    positions: torch.Tensor

    @cached_property
    def cos_sin(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the tokens, each [tokens, 1, head_dim]: gathered once a step."""
        cos, sin = self.table.index_select(0, self.positions).chunk(2, dim=1)
        return cos, sin


class RotaryEmbedding(nn.Module):
    """A table of [max_positions, 2, head_dim], computed in float32 and kept in the default dtype.

    Its two rows are the cosines and the sines as `rotate` needs them: the sines of the first half
    are negated.
    """

    table: torch.Tensor

    def __init__(self, config: RopeConfig, head_dim: int, max_positions: int) -> None:
        super().__init__()
        frequencies, amplitude = inverse_frequencies(config, head_dim)
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        positions = torch.arange(max_positions, dtype=torch.float32, device=device)
        angles = torch.outer(positions, frequencies.to(device))
        cos, sin = angles.cos().mul_(amplitude).to(dtype), angles.sin().mul_(amplitude).to(dtype)
        table = torch.cat((cos, cos, -sin, sin), dim=-1).view(max_positions, 2, head_dim)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: torch.Tensor) -> Rotation:
        return Rotation(self.table, positions)


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) by its position's angle.

    x: [tokens, heads, head_dim]; returns it new.
    """
    cos, sin = rotation.cos_sin
    swapped = x.roll(x.shape[-1] // 2, -1)
    return torch.mul(x, cos).addcmul_(swapped, sin)
