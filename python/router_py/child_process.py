"""A child process that reports how its start goes, and that does not outlive this one.

Three pipes lead to it: on the first it writes JSON lines about its start, on the second it sees
that we are gone, however we ended, and over the third its output comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.api.start_report import STATUS_FD
from worker.launch_server import PARENT_FD

LINE_LIMIT_BYTES = 1 << 20


class StartFailedError(Exception):
    """A child ended before it was ready; the message is its reason, in one line."""


@dataclass(frozen=True)
class Listener:
    """Who hears of a child: of its progress (stage, fraction from 0 to 1) and of its output lines.

    Without `line` the child writes to our own stdout and stderr.
    """

    progress: Callable[[str, float], None]
    line: Callable[[str], None] | None = None


class ChildProcess:
    """Leads a session of its own, so that a Ctrl-C in the terminal reaches us alone."""

    def __init__(self, process: asyncio.subprocess.Process, parent_pipe: int) -> None:
        self._process = process
        self._parent_pipe = parent_pipe
        self._failure: str | None = None
        self._last_line: str | None = None
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._readers: list[asyncio.Task[None]] = []
        self._exit: asyncio.Task[int] = asyncio.create_task(self._watch())

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        listener: Listener,
        environment: Mapping[str, str] | None = None,
    ) -> ChildProcess:
        """Start `command`; `environment` is added to our own."""
        status_read, status_write = os.pipe()
        parent_read, parent_write = os.pipe()
        output_read, output_write = os.pipe() if listener.line else (None, None)
        variables = {STATUS_FD: str(status_write), PARENT_FD: str(parent_read)}
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **(environment or {}), **variables},
            pass_fds=(status_write, parent_read),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            start_new_session=True,
        )
        for ours_no_more in (status_write, parent_read, output_write):
            if ours_no_more is not None:
                os.close(ours_no_more)
        child = cls(process, parent_write)
        child._read(status_read, child._on_status, listener)
        if output_read is not None:
            child._read(output_read, child._on_output, listener)
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> dict[str, Any]:
        """What the child said when it was ready. Raises StartFailedError if it ends before."""
        await asyncio.wait({self._ready, self._exit}, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return self._ready.result()
        raise StartFailedError(
            self._failure or self._last_line or f"it {describe_exit(self._exit.result())}"
        )

    async def exited(self) -> int:
        """Its exit code, or minus a signal's number. Nothing of its session is left then."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, then, after `grace_seconds`, SIGKILL to all of its session."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait({self._exit}, timeout=grace_seconds)
        self._kill_session()
        await asyncio.wait({self._exit})

    async def _watch(self) -> int:
        code = await self._process.wait()
        # Its own children may live on, and hold the pipes open.
        self._kill_session()
        os.close(self._parent_pipe)
        await asyncio.gather(*self._readers)
        return code

    def _kill_session(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self, fd: int, handle: Callable[[str, Listener], None], listener: Listener) -> None:
        self._readers.append(asyncio.create_task(_read_lines(fd, handle, listener)))

    def _on_status(self, line: str, listener: Listener) -> None:
        match json.loads(line):
            case {"event": "progress", "stage": stage, "fraction": fraction}:
                listener.progress(stage, fraction)
            case {"event": "ready", **details}:
                if not self._ready.done():
                    self._ready.set_result(details)
            case {"event": "failed", "error": error}:
                self._failure = error

    def _on_output(self, line: str, listener: Listener) -> None:
        if line.strip():
            self._last_line = line.strip()
        if listener.line:
            listener.line(line)


async def _read_lines(fd: int, handle: Callable[[str, Listener], None], listener: Listener) -> None:
    reader = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
    pipe = os.fdopen(fd, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # longer than the limit: StreamReader dropped what it held of it
            if not line:
                return
            handle(line.decode(errors="replace").rstrip("\n"), listener)
    finally:
        transport.close()


def describe_exit(code: int) -> str:
    """What an exit code says, to stand after "it"."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours; `-P` keeps a user's files from shadowing it."""
    return [sys.executable, "-P", "-m", module, *arguments]
