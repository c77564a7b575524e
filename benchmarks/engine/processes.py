"""Jobs in processes of their own, with the machine's caches or without any."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .job import Job, JobResult

_ROOT = Path(__file__).parents[2]
# Where libraries keep what they have compiled.
_CACHES = (
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "CUDA_CACHE_PATH",
    "FLASHINFER_WORKSPACE_BASE",
    "VLLM_CACHE_ROOT",
    "XDG_CACHE_HOME",
)


class JobFailedError(RuntimeError):
    """The process of a job ended without a result; its own output says why."""


def run_in_process(job: Job, *, cold: bool = False) -> JobResult:
    """Run `job`; with `cold`, nothing that was compiled before is found. What the process prints
    goes to stderr.
    """
    with tempfile.TemporaryDirectory(prefix="radixfleet-bench-") as folder:
        result = Path(folder) / "result.json"
        environment = dict(os.environ)
        if cold:
            environment |= {name: str(Path(folder) / name.lower()) for name in _CACHES}
        job = dataclasses.replace(job, started=time.monotonic())
        command = [sys.executable, "-m", "benchmarks.engine.job", job.to_json(), str(result)]
        with _ended(subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=2)) as process:
            code = process.wait()
        if code != 0 or not result.is_file():
            raise JobFailedError(f"{job.engine} ended with exit code {code}; see its output above")
        return JobResult.from_json(result.read_text())


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Nothing is left running, whatever happens in the block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
