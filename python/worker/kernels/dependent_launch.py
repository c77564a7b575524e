"""Programmatic dependent launch: a kernel starts while the one before it still runs.

A kernel launched so (`launch_pdl=True`) may read what no kernel of the step writes, such as
weights; before anything else it calls `gdc_wait`, which returns when all kernels before it have
ended. After `gdc_launch_dependents`, the kernel that follows may start. In a chain, every kernel
must wait, or the next one might see what is older than two launches unfinished.
"""

from __future__ import annotations

from functools import cache

import torch
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = ["gdc_launch_dependents", "gdc_wait", "launches_early"]


@cache
def launches_early(device: torch.device) -> bool:
    """Whether the device can: NVIDIA's from compute capability 9.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
