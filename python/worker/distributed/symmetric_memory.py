"""Sums of small tensors over GPUs that read each other's memory: one kernel, one trip.

The one-shot all-reduce of torch's symmetric memory: every GPU copies its part to where the others
can read it, and adds up all parts itself. It moves more bytes than NCCL's algorithms and waits
less, so it is for what a decode step sums: on four H200, 64 KB take 8.6 us instead of 12.2, and one
request of an 8B model decodes 9 % faster.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

# Larger tensors are left to NCCL. Tensors are read in pieces of 16 bytes.
_MAX_BYTES = 512 << 10
_ALIGNMENT = 16
_DTYPES = (torch.bfloat16, torch.float32)  # those that torch's kernel adds up


def can_read_each_other(device: torch.device, rank: int, size: int) -> bool:
    """Whether all ranks' GPUs, one behind the other from rank 0's on, reach each other's memory."""
    assert device.index is not None
    first = device.index - rank
    others = [first + other for other in range(size) if other != rank]
    reachable = all(torch.cuda.can_device_access_peer(device.index, other) for other in others)
    agreed = torch.tensor([reachable], dtype=torch.int32, device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed.item())


class OneShotAllReduce:
    """Made by all ranks together, after they have met. Raises RuntimeError if their GPUs cannot."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed._symmetric_memory as symmetric_memory

        group = dist.group.WORLD
        assert group is not None
        self._group_name = group.group_name
        self._buffer = symmetric_memory.empty(_MAX_BYTES, dtype=torch.uint8, device=device)
        symmetric_memory.rendezvous(self._buffer, group)

    def takes(self, x: torch.Tensor) -> bool:
        """Whether x is for this way of summing; the same on every rank."""
        return x.dtype in _DTYPES and x.nbytes <= _MAX_BYTES and x.nbytes % _ALIGNMENT == 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's x, contiguous and such that it `takes` it, in new memory."""
        buffer = self._buffer.view(x.dtype)[: x.numel()]
        summed = torch.ops.symm_mem.one_shot_all_reduce_copy(
            buffer, x.view(-1), "sum", self._group_name
        )
        return summed.view(x.shape)
