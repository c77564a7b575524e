"""A tiny checkpoint and prompts for it, where a file makes none of its own."""

from __future__ import annotations

import pytest
import torch

from ..checkpoints import VOCAB_SIZE, make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama3"), "llama3")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = (5, 17, 30, 9)
    return [torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]
