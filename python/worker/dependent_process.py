"""A process of ours that does not outlive the one that started it, and that says why it ends.

One socket pair ties the two together, and nothing polls: the child reads the end of it when its
parent is gone, however that went; the parent reads the child's last words, if it had any, and then
the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

_LAST_WORDS_BYTES = 4096


class DependentProcess:
    """The parent's side."""

    def __init__(self, name: str, command: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        """Start `command`, with `--parent-fd` added to its arguments; messages call it `name`."""
        self._name = name
        self._socket, theirs = socket.socketpair()
        with theirs, _interrupts_blocked():
            self._process = subprocess.Popen(
                [*command, "--parent-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *pass_fds),
                stdin=subprocess.DEVNULL,
            )

    def wait_until_dead(self) -> str:
        """Block until the process has ended; returns why or how, in one line."""
        words = b""
        with contextlib.suppress(OSError):
            while part := self._socket.recv(_LAST_WORDS_BYTES):
                words += part
        code = self._process.wait()
        if words:
            return f"{self._name} failed: {words.decode(errors='replace')}"
        if code < 0:
            return f"{self._name} was killed by {signal.Signals(-code).name}"
        return f"{self._name} ended with exit code {code}"

    def send_signal(self, number: signal.Signals) -> None:
        """Does nothing if the process has ended."""
        self._process.send_signal(number)

    def close(self) -> None:
        """Kill the process and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


class ParentProcess:
    """The child's side."""

    def __init__(self, parent_fd: int) -> None:
        self._socket = socket.socket(fileno=parent_fd)

    def end_with_it(self) -> None:
        """From now on, this process ends at once when its parent does. Ctrl-C is the parent's."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._watch, name="watch-parent", daemon=True).start()

    def fail(self, reason: str) -> NoReturn:
        """End this process with exit code 1; the parent learns the reason."""
        words = " ".join(reason.split()).encode()[:_LAST_WORDS_BYTES]
        with contextlib.suppress(OSError):
            self._socket.sendall(words)
        sys.stderr.flush()
        os._exit(1)

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1)  # nobody sends
        os._exit(0)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A child made within ignores Ctrl-C, which a terminal sends to both: its parent ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
