"""Where the model runs: device, dtype, threads and free memory."""

from __future__ import annotations

import os

import torch

from ..cores import usable_cores


class DeviceError(RuntimeError):
    """The wished device cannot be used; the message is one line for the user."""


def choose_device(name: str) -> torch.device:
    """The device for `--device`; "auto" prefers a GPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError(
            "--device cuda: torch finds no CUDA device on this machine; use --device cpu"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for `--dtype`; "auto" is bfloat16 where the device multiplies it in hardware."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def set_threads(num_threads: int | None) -> int:
    """Use `num_threads` CPU threads, or as many as the process may run on; returns how many."""
    if num_threads is None:
        num_threads = usable_cores()
    torch.set_num_threads(num_threads)
    return num_threads


def free_memory(device: torch.device) -> int:
    """Free bytes: of the GPU, or of the machine (what can be had without swapping)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
