"""A tiny checkpoint and prompts for it, where a file makes none of its own, and engines with it."""

from __future__ import annotations

import pytest
import torch

from ..checkpoints import VOCAB_SIZE, make_checkpoint
from .harness import Engine


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama3"), "llama3")


@pytest.fixture(scope="module")
def jumping(model):
    engine = Engine(model, random_seed=0)
    yield engine
    engine.scheduler.grammars.close()


@pytest.fixture(scope="module")
def plain(model):
    """Without jump-forward."""
    engine = Engine(model, random_seed=0, disable_jump_forward=True)
    yield engine
    engine.scheduler.grammars.close()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = (5, 17, 30, 9)
    return [torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]
