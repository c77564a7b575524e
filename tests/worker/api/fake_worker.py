"""`worker.launch_server` with a scheduler that answers from a script."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from worker import launch_server
from worker.api.scheduler_process import SchedulerProcess

COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("fake_scheduler.py")))

if __name__ == "__main__":
    launch_server.SchedulerProcess = functools.partial(SchedulerProcess, command=COMMAND)
    launch_server.main()
