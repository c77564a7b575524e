"""GGML's block formats unpacked with torch, on any device; the rare ones with the `gguf` package.

A tensor is stored as rows of blocks. A block holds a few scales and the packed integers that they
multiply. Formats and their arithmetic:
https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c (dequantize_row_*). The results equal
`gguf.quants.dequantize` bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

# Each format's function takes [blocks, block bytes] uint8 and returns [blocks, elements] float32.

# ===== Blocks of 32 =====


def _float16(blocks: torch.Tensor, start: int) -> torch.Tensor:
    return blocks[:, start : start + 2].view(torch.float16).float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """[blocks, groups, bytes] → [blocks, groups, 2, bytes]: low halves of the bytes, then high."""
    return torch.stack((packed & 15, packed >> 4), dim=2)


def _bits(packed: torch.Tensor) -> torch.Tensor:
    """[blocks, bytes] → [blocks, 8 · bytes]: bit 0 of the first byte first."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(1)


def _low_bits(blocks: torch.Tensor, start: int) -> torch.Tensor:
    return _nibbles(blocks[:, None, start : start + 16]).flatten(1)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return (_low_bits(blocks, 2).to(torch.int8) - 8) * _float16(blocks, 0)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return (_low_bits(blocks, 4) * _float16(blocks, 0)).add_(_float16(blocks, 2))


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    values = _low_bits(blocks, 6) | (_bits(blocks[:, 2:6]) << 4)
    return (values.to(torch.int8) - 16) * _float16(blocks, 0)


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    values = _low_bits(blocks, 8) | (_bits(blocks[:, 4:8]) << 4)
    return (values * _float16(blocks, 0)).add_(_float16(blocks, 2))


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[:, 2:].view(torch.int8) * _float16(blocks, 0)


# ===== Blocks of 256 with scales of their own for 8 or 16 groups =====


def _scales_and_minima(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of Q4_K and Q5_K: 8 six-bit scales and 8 six-bit minima in 12 bytes.

    Returns both, times their float16 units: [blocks, 8, 1] float32.
    """
    low_scales, low_minima, shared = blocks[:, 4:16].view(-1, 3, 4).unbind(1)
    high_scales = (shared & 15) | ((low_scales >> 2) & 48)
    high_minima = (shared >> 4) | ((low_minima >> 2) & 48)
    scales = torch.cat((low_scales & 63, high_scales), dim=1) * _float16(blocks, 0)
    minima = torch.cat((low_minima & 63, high_minima), dim=1) * _float16(blocks, 2)
    return scales.unsqueeze(-1), minima.unsqueeze(-1)


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    scales, minima = _scales_and_minima(blocks)
    values = _nibbles(blocks[:, 16:144].view(-1, 4, 32)).view(-1, 8, 32)
    return (values * scales).sub_(minima).flatten(1)


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    scales, minima = _scales_and_minima(blocks)
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device).view(1, 8, 1)
    high = (blocks[:, None, 16:48] >> shifts) & 1
    values = _nibbles(blocks[:, 48:176].view(-1, 4, 32)).view(-1, 8, 32) | (high << 4)
    return (values * scales).sub_(minima).flatten(1)


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    scales = blocks[:, 192:208].view(torch.int8) * _float16(blocks, 208)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device).view(1, 1, 4, 1)
    low = _nibbles(blocks[:, :128].view(-1, 2, 64)).view(-1, 2, 4, 32)
    high = (blocks[:, 128:192].view(-1, 2, 1, 32) >> shifts) & 3
    values = (low | (high << 4)).to(torch.int8) - 32
    return (values.view(-1, 16, 16) * scales.unsqueeze(-1)).flatten(1)


# ===== The table of formats =====


@dataclass(frozen=True)
class _Format:
    """`elements` in `size` bytes, and the function that unpacks blocks of them."""

    elements: int
    size: int
    unpack: Callable[[torch.Tensor], torch.Tensor]


# By number in ggml.h, enum ggml_type.
_FORMATS = {
    0: _Format(1, 4, lambda blocks: blocks.view(torch.float32)),
    1: _Format(1, 2, lambda blocks: blocks.view(torch.float16).float()),
    2: _Format(32, 18, _q4_0),
    3: _Format(32, 20, _q4_1),
    6: _Format(32, 22, _q5_0),
    7: _Format(32, 24, _q5_1),
    8: _Format(32, 34, _q8_0),
    12: _Format(256, 144, _q4_k),
    13: _Format(256, 176, _q5_k),
    14: _Format(256, 210, _q6_k),
    30: _Format(1, 2, lambda blocks: blocks.view(torch.bfloat16).float()),
}


class UnknownQuantizationError(ValueError):
    """No function unpacks this format."""


def dequantize(rows: torch.Tensor, ggml_type: int) -> torch.Tensor:
    """rows: [rows, bytes of a row] uint8.

    Returns [rows, elements of a row] float32, on the same device.
    """
    block = _format(ggml_type)
    return block.unpack(rows.reshape(-1, block.size)).view(rows.shape[0], -1)


def stored_bytes(ggml_type: int, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of `shape` takes in the file. Raises UnknownQuantizationError."""
    block = _format(ggml_type)
    *rows, columns = shape
    if columns % block.elements:
        raise UnknownQuantizationError(
            f"rows of {columns} elements do not divide into blocks of {block.elements}"
        )
    return torch.Size(rows).numel() * (columns // block.elements) * block.size


def _format(ggml_type: int) -> _Format:
    if ggml_type in _FORMATS:
        return _FORMATS[ggml_type]
    return _format_of_gguf_package(ggml_type)


@cache
def _format_of_gguf_package(ggml_type: int) -> _Format:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        kind = GGMLQuantizationType(ggml_type)
    except ValueError:
        raise UnknownQuantizationError(f"unknown quantization: GGML type {ggml_type}") from None
    elements, size = GGML_QUANT_SIZES[kind]

    def unpack(blocks: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(dequantize(blocks.cpu().numpy(), kind)).to(blocks.device)

    try:
        unpack(torch.zeros(1, size, dtype=torch.uint8))
    except NotImplementedError:
        raise UnknownQuantizationError(f"quantization {kind.name} cannot be unpacked") from None
    return _Format(elements, size, unpack)
