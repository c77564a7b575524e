"""The fused activation equals its reference."""

import pytest
import torch

from worker.kernels.activation import silu_and_mul, silu_and_mul_reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "size"), [(0, 8), (1, 1), (3, 1000), (2, 1024), (4, 1536)])
def test_equals_the_reference(device, dtype, tokens, size) -> None:
    torch.manual_seed(0)
    gate_up = torch.randn(tokens, 2 * size, dtype=dtype, device=device) * 5
    torch.testing.assert_close(silu_and_mul(gate_up), silu_and_mul_reference(gate_up))


def test_large_values_stay_finite(device) -> None:
    gate_up = torch.tensor([[-80.0, 200.0, 1.0, 1.0]], device=device)
    torch.testing.assert_close(
        silu_and_mul(gate_up), torch.tensor([[0.0, 200.0]], device=device), atol=1e-6, rtol=0
    )
