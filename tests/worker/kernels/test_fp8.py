"""FP8 kernels equal their references: rows and sizes that fill no block, and rows of zeros."""

import pytest
import torch

from worker.kernels.fp8 import FEW_ROWS, few_rows_product, quantize_rows
from worker.kernels.fp8_reference import few_rows_product_reference, quantize_rows_reference


def fp8_numbers(rows, size):
    """[rows, size] float32 of numbers that FP8 has, the largest in every row."""
    bits = torch.randint(0, 0x7F, (rows, size), dtype=torch.uint8)
    numbers = bits.view(torch.float8_e4m3fn).float() * (torch.randint(2, bits.shape) * 2 - 1)
    numbers[:, -1:] = -448.0
    return numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "size"), [(0, 16), (1, 16), (3, 100), (2, 4096), (2, 9000)])
def test_rows_are_scaled_to_the_range_of_fp8(device, rows, size, dtype):
    torch.manual_seed(0)
    # Nothing is rounded, since the interpreter does not round to FP8 as a GPU does.
    numbers = fp8_numbers(rows, size).to(device)
    powers = 2.0 ** torch.arange(-3, 5 * rows - 3, 5, device=device)[:, None]
    x = (numbers * powers).to(dtype)
    for quantized, scales in (quantize_rows(x), quantize_rows_reference(x)):
        assert torch.equal(scales, powers)
        assert torch.equal(quantized.float(), numbers)


def test_a_row_of_zeros_stays_zero(device):
    x = torch.zeros(2, 40, device=device)
    x[1, 3] = -448.0
    quantized, scales = quantize_rows(x)
    torch.testing.assert_close(quantized.float() * scales, x)


def test_rows_may_lie_apart(device):
    x = fp8_numbers(4, 64).to(device)
    quantized, _ = quantize_rows(x[:, 32:])
    assert torch.equal(quantized.float(), x[:, 32:])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(1, 16, 512), (FEW_ROWS, 40, 576), (3, 17, 1040)]
)
def test_product_of_a_few_rows(device, rows, outputs, inputs, bias):
    torch.manual_seed(0)
    x = torch.randn(rows, inputs, device=device)
    weight, scales = quantize_rows_reference(torch.randn(outputs, inputs, device=device))
    b = torch.randn(outputs, device=device) if bias else None
    product = few_rows_product(x, weight, scales.view(-1), b)
    wanted = few_rows_product_reference(x, weight, scales.view(-1), b)
    torch.testing.assert_close(product, wanted, rtol=1e-4, atol=1e-3)


def test_too_many_rows_are_refused(device):
    x, weight = torch.zeros(FEW_ROWS + 1, 32), torch.zeros(16, 32).to(torch.float8_e4m3fn)
    with pytest.raises(AssertionError, match=str(FEW_ROWS + 1)):
        few_rows_product(x.to(device), weight.to(device), torch.ones(16, device=device), None)
