"""What of this machine matters to a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from worker.cores import usable_cores
from worker.embedded_models import EMBEDDED_MODELS, cache_folder

PACKAGES = ("radixfleet", "torch", "transformers", "tokenizers", "fastapi", "uvicorn", "pyzmq")
# What decides how fast a CPU multiplies bfloat16 and int8 matrices.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def describe_environment() -> dict[str, str]:
    """Names and values, in the order to print them. Imports torch, which takes a second or two."""
    facts = {name: _version(name) for name in PACKAGES}
    facts["python"] = f"{platform.python_version()} ({sys.executable})"
    facts["system"] = platform.platform()
    facts |= _cpu()
    facts["memory"] = _memory()
    facts |= _torch()
    pulled = [model.name for model in EMBEDDED_MODELS.values() if model.is_pulled()]
    facts["cache folder"] = f"{cache_folder()} (pulled: {', '.join(pulled) or 'nothing'})"
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> dict[str, str]:
    described: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            described.setdefault(name.strip(), value.strip())
    flags = (described.get("flags") or described.get("Features") or "").split()
    return {
        "cpu": described.get("model name") or platform.processor() or platform.machine(),
        "cpu features": " ".join(flag for flag in CPU_FEATURES if flag in flags) or "unknown",
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
    }


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


def _torch() -> dict[str, str]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "gpus": ", ".join(gpus) or "none",
        "torch threads": f"{torch.get_num_threads()} (OMP_NUM_THREADS {threads or 'not set'})",
    }
