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
    the key. It is made a row at a time and in place, so that all of it stays in a CPU's cache.
    """
    index = torch.arange(columns, device=keys.device, dtype=torch.int64).mul_(0x9E3779B1)
    x, shifted = torch.empty_like(index), torch.empty_like(index)
    uniform = torch.empty_like(index, dtype=torch.float64)
    noise = torch.empty((len(keys), columns), dtype=torch.float32, device=keys.device)
    for row, key in zip(noise, keys.tolist(), strict=True):
        torch.add(index, key & _MASK32, out=x)
        _mix(x, shifted)
        x.add_(key >> 32)
        _mix(x, shifted)
        uniform.copy_(x).add_(0.5).mul_(1.0 / (1 << 32))
        row.copy_(uniform.log_().neg_().log_().neg_())
    return noise


def _mix(x: torch.Tensor, shifted: torch.Tensor) -> None:
    """MurmurHash3's 32-bit finalizer of the low 32 bits of int64 lanes, in place.

    `shifted`, of the same shape, is scratch.
    """
    x.bitwise_and_(_MASK32)
    x.bitwise_xor_(torch.bitwise_right_shift(x, 16, out=shifted))
    x.mul_(0x85EBCA6B).bitwise_and_(_MASK32)
    x.bitwise_xor_(torch.bitwise_right_shift(x, 13, out=shifted))
    x.mul_(0xC2B2AE35).bitwise_and_(_MASK32)
    x.bitwise_xor_(torch.bitwise_right_shift(x, 16, out=shifted))
