"""The scheduler process and the two sockets that lead to it, from the HTTP process's side."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from ..config import ServerArgs
from ..dependent_process import DependentProcess
from ..messages import FromScheduler, LoadProgress, Ready, StartFailed
from .start_report import StartReport

SCHEDULER_COMMAND = (sys.executable, "-P", "-m", "worker.scheduler")


class StartError(Exception):
    """The worker cannot start; the text is one line for the user."""


class SchedulerProcess:
    """Binds the sockets, then starts the process, which connects to them and ends when we do."""

    def __init__(self, server_args: ServerArgs, command: Sequence[str] = SCHEDULER_COMMAND) -> None:
        self._context = zmq.Context()
        self._folder = tempfile.TemporaryDirectory(prefix="radixfleet-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self.requests = self._context.socket(zmq.PUSH)
        self._outputs = self._context.socket(zmq.PULL)
        for socket, name in ((self.requests, "requests"), (self._outputs, "outputs")):
            socket.set_hwm(0)
            socket.linger = 0
            socket.bind(f"ipc://{folder / name}")
        arguments = {
            "--args": dataclasses.replace(server_args, api_key=None).to_json(),
            "--requests": f"ipc://{folder / 'requests'}",
            "--outputs": f"ipc://{folder / 'outputs'}",
        }
        self._process = DependentProcess(
            "the scheduler process", [*command, *itertools.chain.from_iterable(arguments.items())]
        )

    def async_outputs(self) -> zmq.asyncio.Socket:
        """The socket that the scheduler's messages come from, for the running event loop."""
        return zmq.asyncio.Socket.from_socket(self._outputs)

    async def wait_until_ready(self, outputs: zmq.asyncio.Socket, report: StartReport) -> Ready:
        """Pass progress on until the engine is ready.

        Raises StartError if it cannot start or dies.
        """
        decoder = msgspec.msgpack.Decoder(FromScheduler)
        while True:
            match decoder.decode(await outputs.recv()):
                case LoadProgress(stage, fraction):
                    report.progress(stage, fraction)
                case StartFailed(error):
                    raise StartError(" ".join(error.split()))
                case Ready() as ready:
                    self._folder.cleanup()  # both sides are connected: the names are not needed
                    return ready

    def wait_until_dead(self) -> str:
        """Block until the process has ended; returns how, in words."""
        return self._process.wait_until_dead()

    def close(self) -> None:
        """Kill the process, wait until it is gone, and give back sockets and folder."""
        self._process.close()
        self._context.destroy(linger=0)
        self._folder.cleanup()
