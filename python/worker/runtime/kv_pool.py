"""Keys and values of every cached token, in device memory, sized once at the start."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# A CPU's memory is shared with everything else on the machine: the pool is not made larger than
# this unasked.
CPU_POOL_LIMIT_BYTES = 4 << 30


class OutOfMemory(RuntimeError):
    """The KV pool does not fit; the message is one line for the user."""


@dataclass(frozen=True)
class KVPool:
    """k, v: one tensor a layer, [slots + 1, kv_heads, head_dim]; padding reads the spare slot."""

    k: list[torch.Tensor]
    v: list[torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.k, *self.v))

    @classmethod
    def allocate(
        cls,
        tokens: int,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVPool:
        shape = (tokens + 1, num_kv_heads, head_dim)
        k, v = ([_zeros(shape, dtype, device) for _ in range(num_layers)] for _ in range(2))
        return cls(k, v)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros whose memory, on a CPU, is taken only when it is written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    import numpy as np

    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)


def pool_tokens(
    *,
    free_bytes: int,
    weights_bytes: int,
    bytes_per_token: int,
    mem_fraction_static: float,
    max_total_tokens: int | None,
    page_size: int,
    device: torch.device,
    table_bytes: int = 0,
) -> int:
    """How many tokens the pool holds, in whole pages.

    `free_bytes` was free before the weights were loaded; weights, page table (`table_bytes`) and
    pool together get `mem_fraction_static` of it. `max_total_tokens` can only make the pool
    smaller, on a CPU also larger than `CPU_POOL_LIMIT_BYTES`.
    """
    room = int(free_bytes * mem_fraction_static) - weights_bytes - table_bytes
    if device.type == "cpu" and max_total_tokens is None:
        room = min(room, CPU_POOL_LIMIT_BYTES)
    tokens = room // bytes_per_token
    if max_total_tokens is not None:
        tokens = min(tokens, max_total_tokens)
    tokens -= tokens % page_size
    if tokens <= 0:
        raise OutOfMemory(
            f"no memory is left for the KV cache: {free_bytes >> 20} MiB were free, weights and "
            f"page table take {weights_bytes + table_bytes >> 20} MiB and --mem-fraction-static is "
            f"{mem_fraction_static}; raise it, lower --max-running-requests or --context-length, "
            "or use a smaller model"
        )
    return tokens
