"""`worker.launch_server` as a process of the test, with the launcher's ends of its two pipes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LONG_SECONDS = 60


class WorkerProcess:
    """Started with `program`; told its status, and to end with the test, unless `status` is false.

    `environment` is added to the test's own.
    """

    def __init__(
        self,
        program: Sequence[str],
        arguments: Sequence[str],
        *,
        status: bool = True,
        **environment: str,
    ) -> None:
        status_read, status_write = os.pipe()
        parent_read, self.parent_write = os.pipe()
        environment = {**os.environ, **environment, "TERM": "dumb"}
        if status:
            environment["RADIXFLEET_STATUS_FD"] = str(status_write)
            environment["RADIXFLEET_PARENT_FD"] = str(parent_read)
        self.process = subprocess.Popen(
            [sys.executable, "-P", *program, "--port", "0", *arguments],
            env=environment,
            pass_fds=(status_write, parent_read),
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(status_write)
        os.close(parent_read)
        self.status = os.fdopen(status_read)

    def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind; fails if the worker ends without one."""
        for line in self.status:
            event = json.loads(line)
            if event["event"] == kind:
                return event
        raise AssertionError(f"no {kind} event: {self.finish()}")

    def finish(self) -> tuple[int, str]:
        """Exit code and stderr, when it has ended by itself."""
        _, errors = self.process.communicate(timeout=LONG_SECONDS)
        return self.process.returncode, errors

    def scheduler_pid(self) -> int:
        """The one child of the worker."""
        (pid,) = children_of(self.process.pid)
        return pid

    def close(self) -> None:
        """Kill it, if it still runs, and give the pipes back."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.status.close()
        with contextlib.suppress(OSError):
            os.close(self.parent_write)


def state_and_parent(pid: int | str) -> tuple[str, int] | None:
    """From /proc; None when there is no such process."""
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *_ = rest.split()
    return state, int(parent)


def children_of(pid: int) -> list[int]:
    running = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    return [each for each in running if (found := state_and_parent(each)) and found[1] == pid]


def wait_until_gone(pid: int) -> None:
    """Gone, or a zombie that the machine's first process has yet to reap."""
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        found = state_and_parent(pid)
        if found is None or found[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")
