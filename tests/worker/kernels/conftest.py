"""Kernels run on the GPU if there is one, else in Triton's interpreter."""

import pytest
import torch

from ..triton_interpreter import allow_loop_bounds

allow_loop_bounds()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
