"""The fused penalties equal their reference."""

import pytest
import torch

from worker.kernels.penalties import penalize
from worker.sampling.penalties import penalize as reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocab"), [(0, 5), (1, 1), (5, 100), (3, 2049)])
def test_equals_the_reference(device, dtype, rows, vocab) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(rows, vocab, generator=generator) * 4).to(device, dtype)
    seen = torch.randint(5, (4, vocab), dtype=torch.int32, generator=generator).to(device)
    factors = torch.tensor(
        [[0.0, 0.0, 1.0], [0.5, 0.0, 1.0], [-1.0, 2.0, 0.5], [0.1, -0.2, 1.7]], device=device
    )
    slots = torch.tensor([2, 0, 3, 1, 2], dtype=torch.int32, device=device)[:rows]
    before = logits.clone()
    changed = penalize(logits, slots, seen, factors)
    assert torch.equal(logits, before)
    torch.testing.assert_close(changed, reference(logits, slots, seen, factors))
