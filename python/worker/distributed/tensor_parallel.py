"""The group of tensor-parallel ranks, and what they send each other: NCCL on GPUs, gloo on CPU."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from .share import Share, balanced_share, block_share, head_shares

# Unless the user says otherwise, NVLink multicast is off in NCCL and in torch's symmetric memory: a
# fault in it can take down the GPUs of other processes on the machine. gloo stays on loopback.
_ENVIRONMENT = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
_RENDEZVOUS_TIMEOUT = timedelta(minutes=10)


class TensorParallel:
    """The ranks that compute one model together, seen from one of them.

    A group of one sends nothing. Collectives on GPUs run on the current stream and can be captured
    in a CUDA graph; every rank must call the same ones in the same order.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, rank: int, size: int, rendezvous: Path, device: torch.device) -> TensorParallel:
        """Meet the other ranks of this machine; blocks until all have come.

        `rendezvous` is a file that the ranks share and that does not exist before.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=size,
            timeout=_RENDEZVOUS_TIMEOUT,
            device_id=device if on_gpu else None,
        )
        return cls(rank, size)

    def leave(self) -> None:
        """End what `join` began, when this process goes on, or ends, in peace."""
        if self.size > 1:
            dist.destroy_process_group()

    # ===== who holds what =====

    def share(self, total: int) -> Share:
        """This rank's part of `total`, as even as it gets."""
        return balanced_share(total, self.rank, self.size)

    def share_blocks(self, total: int) -> Share:
        """This rank's part of a dimension that `all_gather` puts together again."""
        return block_share(total, self.rank, self.size)

    def share_heads(self, num_heads: int, num_kv_heads: int) -> tuple[Share, Share]:
        """This rank's query heads and key/value heads; see `head_shares`."""
        return head_shares(num_heads, num_kv_heads, self.rank, self.size)

    # ===== collectives =====

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's x, in its place. x: contiguous, of one shape on all ranks."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def all_gather(self, x: torch.Tensor, total: int) -> torch.Tensor:
        """Every rank's columns side by side. x: [rows, this rank's `share_blocks(total)`].

        Returns [rows, total], contiguous; the same bits on every rank.
        """
        if self.size == 1:
            return x
        block = -(-total // self.size)
        x = F.pad(x, (0, block - x.shape[1])) if x.shape[1] < block else x.contiguous()
        gathered = x.new_empty(self.size, *x.shape)
        dist.all_gather_into_tensor(gathered.view(-1, block), x)
        columns = gathered.transpose(0, 1).reshape(x.shape[0], -1)
        return columns[:, :total].contiguous()

    def min(self, value: int, device: torch.device) -> int:
        """The smallest of all ranks' values, on the host: waits for them and for `device`."""
        if self.size == 1:
            return value
        smallest = torch.tensor([value], dtype=torch.int64, device=device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        return int(smallest.item())


SINGLE = TensorParallel(0, 1)
