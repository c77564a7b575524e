"""Where the model runs: device, dtype, threads and free memory."""

from __future__ import annotations

import os

import torch

from ..cores import cores_of_rank


class DeviceError(RuntimeError):
    """The wished device cannot be used; the message is one line for the user."""


def choose_device(name: str, first_gpu: int = 0, rank: int = 0, ranks: int = 1) -> torch.device:
    """The device of `rank` for `--device`; "auto" prefers a GPU, which becomes torch's current one.

    `ranks` GPUs are used, one each, from `first_gpu` on. Raises DeviceError.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and not found:
        raise DeviceError(
            "--device cuda: torch finds no CUDA device on this machine; use --device cpu"
        )
    if not found or name == "cpu":
        return torch.device("cpu")
    if first_gpu + ranks > found:
        last = first_gpu + ranks - 1
        wanted = f"GPU {last} is" if ranks == 1 else f"GPUs {first_gpu} to {last} are"
        raise DeviceError(
            f"{wanted} wanted, but torch finds {found} on this machine, numbered from 0; "
            "lower --dp-size, --tp-size or --base-gpu-id"
        )
    # Prefill batches differ in size from step to step: fixed segments would come to lie in pieces.
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    device = torch.device("cuda", first_gpu + rank)
    torch.cuda.set_device(device)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for `--dtype`; "auto" is bfloat16 where the device multiplies it in hardware."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def choose_kv_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype for `--kv-cache-dtype`; "auto" is the model's."""
    chosen = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
    return dtype if name == "auto" else chosen[name]


def check_fp8(dtype: torch.dtype, device: torch.device) -> None:
    """Raise DeviceError if `device` cannot multiply FP8 weights with activations of `dtype`."""
    if device.type != "cuda":
        return
    if torch.cuda.get_device_capability(device) < (8, 9):
        raise DeviceError(
            f"--quantization fp8: {torch.cuda.get_device_name(device)} does not multiply FP8; it "
            "needs compute capability 8.9 or later"
        )
    if dtype != torch.bfloat16:
        raise DeviceError(f"--quantization fp8 needs --dtype bfloat16, not {dtype}")


def set_threads(num_threads: int | None, ranks: int = 1) -> None:
    """Divide `num_threads` CPU threads, or all that the process may run on, among `ranks`."""
    torch.set_num_threads(cores_of_rank(num_threads, ranks))


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
