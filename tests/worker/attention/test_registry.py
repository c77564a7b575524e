"""A backend is found by its name, where it runs."""

import pytest
import torch

from worker.attention.base import UnsupportedAttention
from worker.attention.registry import ATTENTION_BACKENDS, attention_backend, default_backend
from worker.attention.torch_native import TorchNativeBackend

CPU = torch.device("cpu")
CACHE = [torch.zeros(9, 2, 16)]


def test_a_cpu_computes_with_what_torch_ships():
    assert type(attention_backend(default_backend(CPU), CACHE, CACHE)) is TorchNativeBackend


@pytest.mark.parametrize("name", sorted(ATTENTION_BACKENDS.keys() - {"torch_native"}))
def test_backends_of_gpus_are_refused_on_a_cpu(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # which the tests set, where it can
    with pytest.raises(
        UnsupportedAttention, match=f"--attention-backend {name} needs an NVIDIA GPU"
    ):
        attention_backend(name, CACHE, CACHE)
