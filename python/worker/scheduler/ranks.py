"""Tensor-parallel ranks as processes: rank 0 starts the others, and each of them finds the rest."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, ClassVar

from ..config import ServerArgs
from ..dependent_process import DependentProcess
from ..embedded_models import resolve_model_path
from ..models.config import check_divisible, load_model_config

if TYPE_CHECKING:  # the other ranks are started before torch is imported
    import torch

    from ..distributed.tensor_parallel import TensorParallel

SCHEDULER_COMMAND = (sys.executable, "-P", "-m", "worker.scheduler")

# Has a follower print the stacks of its threads.
STACKS_SIGNAL = signal.SIGUSR1
_PRINTING_SECONDS = 0.5


@contextlib.contextmanager
def last_to_fail(seconds: float) -> Iterator[None]:
    """Hold back what fails within: where that is because another rank has died, it is noticed
    meanwhile, and named.
    """
    try:
        yield
    except Exception:
        time.sleep(seconds)
        raise


def end_this_process(reason: str) -> None:
    """Print the reason and exit: an engine that lost a rank may be stuck inside the GPU's driver,
    where no exception reaches it.
    """
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


class Followers:
    """Ranks 1 to `args.tp_size` - 1, started by this process, which is rank 0.

    They end when this process does. When one of them ends unasked, `on_death` is called with the
    reason, in a thread of its own. Raises ModelConfigError, before any is started, for a model that
    they could not divide.
    """

    grace_seconds: ClassVar[float] = 0.5

    def __init__(
        self, args: ServerArgs, on_death: Callable[[str], None] = end_this_process
    ) -> None:
        config = load_model_config(
            resolve_model_path(args.model_path), is_embedding=args.is_embedding
        )
        check_divisible(config, args.tp_size)
        self._size = args.tp_size
        self._on_death = on_death
        self._closing = False
        self._group: TensorParallel | None = None
        self._rendezvous = socket.create_server(("127.0.0.1", 0))
        self._processes: list[DependentProcess] = []
        self._outboxes: list[Connection] = []
        for rank in range(1, args.tp_size):
            self._start(args, rank)
        atexit.register(self.close)

    def _start(self, args: ServerArgs, rank: int) -> None:
        inbox, outbox = multiprocessing.connection.Pipe(duplex=False)
        port = self._rendezvous.getsockname()[1]
        place = ["--rank", str(rank), "--rendezvous", str(port), "--steps-fd", str(inbox.fileno())]
        with inbox:
            process = DependentProcess(
                f"tensor-parallel rank {rank}",
                [*SCHEDULER_COMMAND, "--args", args.to_json(), *place],
                pass_fds=[inbox.fileno()],
            )
        self._processes.append(process)
        self._outboxes.append(outbox)
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def _watch(self, process: DependentProcess) -> None:
        reason = process.wait_until_dead()
        if not self._closing:
            self._on_death(reason)

    def join(self, device: torch.device, *, one_shot: bool = True) -> TensorParallel:
        """Meet them; `device` is this rank's. See `TensorParallel.join`."""
        from ..distributed.tensor_parallel import TensorParallel

        self._group = TensorParallel.join(
            0, self._size, self._rendezvous, device, one_shot=one_shot
        )
        return self._group

    def tell(self, frame: bytes) -> None:
        """Send `frame` to every one of them."""
        for outbox in self._outboxes:
            outbox.send_bytes(frame)

    def print_stacks(self) -> None:
        """Have each of them print the stacks of its threads; returns when that should be done."""
        for process in self._processes:
            process.send_signal(STACKS_SIGNAL)
        time.sleep(_PRINTING_SECONDS)

    def close(self) -> None:
        """Leave the group and end them. May be called twice."""
        self._closing = True
        atexit.unregister(self.close)
        if self._group is not None:
            self._group.leave()
            self._group = None
        self._rendezvous.close()
        for process, outbox in zip(self._processes, self._outboxes, strict=True):
            outbox.close()
            process.close()
        self._processes.clear()
        self._outboxes.clear()


@dataclass(frozen=True)
class Follower:
    """This process is not rank 0, which listens at port `rendezvous` and writes to `inbox`."""

    grace_seconds: ClassVar[float] = 1.0  # longer: what fails on every rank is for rank 0 to say

    rank: int
    size: int
    rendezvous: int
    inbox: Connection

    def join(self, device: torch.device, *, one_shot: bool = True) -> TensorParallel:
        """Meet the other ranks; `device` is this rank's. See `TensorParallel.join`."""
        from ..distributed.tensor_parallel import TensorParallel

        return TensorParallel.join(self.rank, self.size, self.rendezvous, device, one_shot=one_shot)
