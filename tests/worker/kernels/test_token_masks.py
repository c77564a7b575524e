"""The kernel that applies masks equals its reference, which forbids what has no bit."""

import pytest
import torch

from worker.kernels.token_masks import apply_masks
from worker.sampling.masks import apply_masks as reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("count", "rows", "vocab"),
    [(1, [0], 1), (3, [2, 0], 31), (2, [1], 32), (4, [3, 1, 0], 33), (3, [1], 4099)],
)
def test_equals_the_reference(device, dtype, count, rows, vocab) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, vocab, generator=generator).to(device, dtype)
    shape = (len(rows), vocab // 32 + 1)
    masks = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)
    at = torch.tensor(rows, dtype=torch.int32)
    expected = logits.cpu().clone()
    reference(expected, at, masks)
    apply_masks(logits, at.to(device), masks.to(device))
    assert torch.equal(logits.cpu(), expected)


def test_a_bit_for_each_token() -> None:
    logits = torch.zeros(2, 40)
    word = (1 << 31) | 0b101
    masks = torch.tensor([[word - (1 << 32), 0b10000010]], dtype=torch.int32)
    reference(logits, torch.tensor([1], dtype=torch.int32), masks)
    assert logits[0].eq(0).all()
    assert logits[1].isfinite().nonzero().flatten().tolist() == [0, 2, 31, 33, 39]
