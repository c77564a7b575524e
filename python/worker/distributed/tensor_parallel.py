"""The group of tensor-parallel ranks, and what they send each other: NCCL on GPUs, gloo on CPU."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._C._distributed_c10d import TCPStore

from .share import Share, balanced_share, block_share, head_shares
from .symmetric_memory import OneShotAllReduce, can_read_each_other

# Unless the user says otherwise:
# - NVLink multicast is off, in NCCL and in torch's symmetric memory: a fault in it can take down
#   the GPUs of other processes on the machine;
# - NCCL does not register the buffers that a CUDA graph reduces: a decode step's are small, and it
#   would do so for every collective of every graph, at start;
# - NCCL's monitor does not report that the process that keeps the store has ended: the launcher
#   says so in one line;
# - gloo stays on loopback.
_ENVIRONMENT = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NCCL_GRAPH_REGISTER": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}


class OtherRankError(RuntimeError):
    """This rank did its part, another one did not; one line for the user."""


class TensorParallel:
    """The ranks that compute one model together, seen from one of them.

    A group of one sends nothing. Collectives on GPUs run on the current stream and can be captured
    in a CUDA graph; every rank must call the same ones in the same order.
    """

    def __init__(self, rank: int, size: int, one_shot: OneShotAllReduce | None = None) -> None:
        self.rank, self.size = rank, size
        self._one_shot = one_shot

    @classmethod
    def join(
        cls,
        rank: int,
        size: int,
        rendezvous: socket.socket | int,
        device: torch.device,
        *,
        one_shot: bool = True,
    ) -> TensorParallel:
        """Meet the other ranks, all on this machine; blocks until all have come.

        `rendezvous` is a socket that listens on loopback, which rank 0 gives away; for the others,
        its port. With `one_shot`, GPUs that can read each other's memory sum small tensors in that
        way. A process is in one group at a time.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=_store(rendezvous, size),
            rank=rank,
            world_size=size,
            device_id=device if on_gpu else None,
        )
        if not (on_gpu and one_shot and can_read_each_other(device, rank, size)):
            return cls(rank, size)
        return cls(rank, size, OneShotAllReduce(device))

    def leave(self) -> None:
        """Undo `join`, without waiting for the other ranks, which may be gone."""
        dist.distributed_c10d._abort_process_group()

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
        """The sum of every rank's x, in its place or in new memory.

        x: contiguous, of one shape on all ranks.
        """
        if self.size == 1:
            return x
        if self._one_shot is not None and self._one_shot.takes(x):
            return self._one_shot(x)
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

    def assemble(self, part: torch.Tensor, share: Share, dim: int) -> torch.Tensor:
        """The whole of a tensor of which each rank has the `share` along `dim`, all of one dtype.

        Several may have the same. `part` holds finite numbers, and is returned if all is in it.
        """
        if self.size == 1:
            return part
        shape = list(part.shape)
        shape[dim] = share.total
        whole = part.new_full(shape, float("-inf"))
        whole.narrow(dim, share.start, len(share)).copy_(part)
        dist.all_reduce(whole, op=dist.ReduceOp.MAX)
        return whole

    def min(self, value: int, device: torch.device) -> int:
        """The smallest of all ranks' values, on the host: waits for them and for `device`."""
        if self.size == 1:
            return value
        smallest = torch.tensor([value], dtype=torch.int64, device=device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        return int(smallest.item())

    @contextlib.contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """If what is done within fails on any rank, it fails on all.

        A rank's own failure is raised as it is; those without one raise OtherRankError.
        """
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        if not self.min(failure is None, device):
            raise failure or OtherRankError("another rank could not do its part; its log says why")


SINGLE = TensorParallel(0, 1)


def _store(rendezvous: socket.socket | int, size: int) -> TCPStore:
    """Where the ranks find each other; rank 0's process keeps it."""
    if isinstance(rendezvous, int):
        return TCPStore("127.0.0.1", rendezvous, size, is_master=False)
    return TCPStore(
        "127.0.0.1",
        rendezvous.getsockname()[1],
        size,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=rendezvous.detach(),
    )
