"""The fused norm equals its reference, for every size of a row."""

import pytest
import torch

from worker.kernels import norm as kernel


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (3, 48), (2, 576), (5, 1024), (1, 4097)])
def test_equals_the_reference(device, with_residual, dtype, tokens, size) -> None:
    torch.manual_seed(0)
    x = torch.randn(tokens, size, dtype=dtype, device=device)
    stream = torch.randn_like(x) * 3 if with_residual else None
    weight = torch.randn(size, dtype=dtype, device=device)
    expected = kernel.add_rms_norm_reference(
        x.clone(), None if stream is None else stream.clone(), weight, 1e-5
    )
    before = x.clone()
    normed, residual = kernel.add_rms_norm(x, stream, weight, 1e-5)
    assert residual is (x if stream is None else stream)
    assert torch.equal(x, before)
    torch.testing.assert_close(normed, expected[0])
    torch.testing.assert_close(residual, expected[1])


@pytest.mark.parametrize("with_residual", [False, True])
def test_a_row_longer_than_the_block_is_read_again(device, monkeypatch, with_residual) -> None:
    monkeypatch.setattr(kernel, "_LARGEST_BLOCK", 64)
    torch.manual_seed(1)
    x = torch.randn(3, 200, device=device)
    stream = torch.randn_like(x) if with_residual else None
    weight = torch.randn(200, device=device)
    expected = kernel.add_rms_norm_reference(
        x.clone(), None if stream is None else stream.clone(), weight, 1e-6
    )
    normed, residual = kernel.add_rms_norm(x, stream, weight, 1e-6)
    torch.testing.assert_close(normed, expected[0])
    torch.testing.assert_close(residual, expected[1])


def test_no_tokens_are_no_work(device) -> None:
    x = torch.empty(0, 64, device=device)
    normed, _ = kernel.add_rms_norm(x, None, torch.ones(64, device=device), 1e-5)
    assert normed.shape == (0, 64)
