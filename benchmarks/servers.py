"""Servers under test, as child processes: started, waited for, and always ended."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

START_LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Server:
    """A running server. `seconds_to_ready` counts from the start of its process."""

    url: str
    seconds_to_ready: float


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(module: str, *flags: str) -> Iterator[Server]:
    """`python -P -m MODULE --port P FLAGS`, from ready to the end of the block."""
    port = free_port()
    command = [sys.executable, "-P", "-m", module, "--port", str(port), *flags]
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _is_ready(url):
                if (
                    process.poll() is not None
                    or time.perf_counter() - started > START_LIMIT_SECONDS
                ):
                    log.seek(0)
                    raise RuntimeError(f"{module} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.05)
            yield Server(url, time.perf_counter() - started)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
