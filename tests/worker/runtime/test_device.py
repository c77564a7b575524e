"""Which GPU, and how many threads, a rank gets."""

from __future__ import annotations

import pytest
import torch

from worker.runtime.device import DeviceError, choose_device, set_threads


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine that seems to have four GPUs; those that were made torch's current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", lambda settings: None)
    return current


def test_each_rank_has_a_gpu_of_its_own(four_gpus: list[torch.device]) -> None:
    found = [choose_device("auto", 2, rank, 2) for rank in range(2)]
    assert found == four_gpus == [torch.device("cuda:2"), torch.device("cuda:3")]


@pytest.mark.parametrize(
    ("first", "ranks", "wanted"), [(4, 1, "GPU 4 is"), (2, 4, "GPUs 2 to 5 are")]
)
def test_too_few_gpus_are_one_line(four_gpus, first: int, ranks: int, wanted: str) -> None:
    with pytest.raises(DeviceError, match=f"^{wanted} wanted, but torch finds 4 .*--dp-size"):
        choose_device("cuda", first, 0, ranks)


def test_ranks_on_cpu_need_no_gpus(four_gpus: list[torch.device]) -> None:
    assert choose_device("cpu", 7, 1, 8) == torch.device("cpu")
    assert four_gpus == []


def test_ranks_divide_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        for threads, ranks, expected in [(4, 2, 2), (3, 1, 3), (1, 2, 1)]:
            set_threads(threads, ranks)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
