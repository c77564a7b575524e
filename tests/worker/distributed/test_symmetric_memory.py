"""Which sums go through the GPUs' memory; the sums themselves need several GPUs."""

import pytest
import torch

from worker.distributed.symmetric_memory import OneShotAllReduce


@pytest.mark.parametrize(
    ("shape", "dtype", "taken"),
    [
        ((1, 4096), torch.bfloat16, True),
        ((64, 4096), torch.bfloat16, True),
        ((65, 4096), torch.bfloat16, False),  # more than 512 KiB
        ((1, 100), torch.float32, True),
        ((1, 101), torch.float32, False),  # no multiple of 16 bytes
        ((1, 4096), torch.float16, False),  # torch has no kernel for it
    ],
)
def test_small_tensors_of_whole_pieces_and_known_types_are_taken(shape, dtype, taken):
    one_shot = object.__new__(OneShotAllReduce)  # without the other GPUs
    assert one_shot.takes(torch.empty(shape, dtype=dtype)) == taken
