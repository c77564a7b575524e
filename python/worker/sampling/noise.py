"""Noise that depends on a request's seed and a token's place in its answer, and on nothing else."""

from __future__ import annotations

import torch

_MASK32 = 0xFFFFFFFF


def noise_keys(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Keys of 63 bits for the noise of the token at each position of an answer (splitmix64).

    seeds, positions: [rows] int64. Returns [rows] int64. The same seed and position give the same
    noise, whatever else is in the batch and however often the request was retracted.
    """
    x = seeds * _signed(0x9E3779B97F4A7C15) + positions * _signed(0xD1B54A32D192ED03)
    x = x + _signed(0x632BE59BD9B4E019)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return _shift_right(x ^ _shift_right(x, 31), 1)


def _signed(constant: int) -> int:
    """The int64 with the bits of a 64-bit `constant`."""
    return constant - (1 << 64) if constant >> 63 else constant


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Without drawing in the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def gumbel_noise(keys: torch.Tensor, columns: int) -> torch.Tensor:
    """Gumbel noise [rows, columns] float32 from `keys` [rows] int64, by a counter-based hash.

    The hash is the finalizer of MurmurHash3 over 32 bits, computed twice with the two halves of
    the key.
    """
    index = torch.arange(columns, device=keys.device, dtype=torch.int64)
    x = (index * 0x9E3779B1)[None, :] + (keys & _MASK32)[:, None]
    x = _mix(x & _MASK32)
    x = _mix((x + (keys >> 32)[:, None]) & _MASK32)
    uniform = (x.to(torch.float64) + 0.5).mul_(1.0 / (1 << 32))
    return uniform.log_().neg_().log_().neg_().to(torch.float32)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's 32-bit finalizer on int64 lanes that hold 32-bit values."""
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _MASK32
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _MASK32
    return x ^ (x >> 16)
