"""A server of ours as a process of the test: a worker, or a fleet behind its router."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WORKER = "worker.launch_server"
FLEET = "router_py.launch_server"


@dataclass(frozen=True)
class Server:
    """`process` is the one that was started, and is not that of the engine."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def serving(module: str, *flags: str) -> Iterator[Server]:
    """Runs until the block is left, at a free port; must end with code 0 then."""
    status_read, status_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, "--port", "0", *flags],
        env={**os.environ, "RADIXFLEET_STATUS_FD": str(status_write)},
        pass_fds=(status_write,),
    )
    os.close(status_write)
    try:
        with os.fdopen(status_read) as status:
            event: dict[str, Any] = {}
            while event.get("event") != "ready":
                event = json.loads(status.readline())
                assert event["event"] != "failed", event
            yield Server(event["url"], process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
