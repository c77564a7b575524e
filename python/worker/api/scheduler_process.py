"""The scheduler process and the two sockets that lead to it, from the HTTP process's side."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from ..config import ServerArgs
from ..messages import FromScheduler, LoadProgress, Ready, StartFailed
from .start_report import StartReport

SCHEDULER_COMMAND = (sys.executable, "-P", "-m", "worker.scheduler")


class StartError(Exception):
    """The worker cannot start; the text is one line for the user."""


class SchedulerProcess:
    """Binds the sockets, then starts the process, which connects to them.

    The process holds the read end of a pipe whose write end is ours: when this process ends in
    whatever way, the scheduler reads its end and ends too.
    """

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
        read_end, self._alive = os.pipe()
        arguments = {
            "--args": dataclasses.replace(server_args, api_key=None).to_json(),
            "--requests": f"ipc://{folder / 'requests'}",
            "--outputs": f"ipc://{folder / 'outputs'}",
            "--parent-fd": str(read_end),
        }
        with _interrupts_blocked():
            self._process = subprocess.Popen(
                [*command, *itertools.chain.from_iterable(arguments.items())],
                pass_fds=(read_end,),
                stdin=subprocess.DEVNULL,
            )
        os.close(read_end)

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
        code = self._process.wait()
        if code < 0:
            return f"the scheduler process was killed by {signal.Signals(-code).name}"
        return f"the scheduler process ended with exit code {code}"

    def close(self) -> None:
        """Kill the process, wait until it is gone, and give back sockets, pipe and folder."""
        self._process.kill()
        self._process.wait()
        os.close(self._alive)
        self._context.destroy(linger=0)
        self._folder.cleanup()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A child made within ignores Ctrl-C, which a terminal sends to both: its parent ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
