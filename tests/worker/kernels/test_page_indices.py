"""Sequences' slots come one behind the other, only the last ones of each if so wished."""

import pytest
import torch

from worker.kernels.page_indices import page_indices, page_indices_reference


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("seq_lens", "counts"),
    [([1], [1]), ([3, 1, 5], [3, 1, 5]), ([2500, 7, 1024], [2500, 7, 1024]), ([90, 4], [16, 4])],
    ids=str,
)
def test_equals_its_reference(device, seq_lens, counts, index):
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(1000, (9, 2600), dtype=torch.int32, generator=generator).to(device)
    rows = torch.randperm(9, generator=generator)[: len(seq_lens)].to(device, index)
    lengths = torch.tensor(seq_lens, dtype=index, device=device)
    starts = torch.tensor([0, *counts], device=device).cumsum(0).to(index)
    found, wanted = torch.full((2, sum(counts) + 3), -1, dtype=torch.int32, device=device)
    page_indices(table, rows, lengths, starts, found, longest=max(counts))
    page_indices_reference(table, rows, lengths, starts, wanted)
    assert torch.equal(found, wanted)
    assert (wanted[sum(counts) :] == -1).all()
