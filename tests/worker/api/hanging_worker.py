"""`worker.launch_server` with the real engine, which hangs as soon as it has a request."""

from __future__ import annotations

import functools
import sys

from worker import launch_server
from worker.api.scheduler_process import SchedulerProcess

PROGRAM = """
import time
from worker.scheduler import process, scheduler

plan = scheduler.Scheduler._plan

def hang_with_requests(self):
    if not self.is_idle:
        time.sleep(600)
    return plan(self)

scheduler.Scheduler._plan = hang_with_requests
process.main()
"""

if __name__ == "__main__":
    command = (sys.executable, "-P", "-c", PROGRAM)
    launch_server.SchedulerProcess = functools.partial(SchedulerProcess, command=command)
    launch_server.main()
