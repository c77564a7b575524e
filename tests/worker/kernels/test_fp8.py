"""FP8 kernels equal their references: rows and sizes that fill no block, and rows of zeros."""

import pytest
import torch

from worker.kernels.fp8 import quantize_rows, scale_product
from worker.kernels.fp8_reference import quantize_rows_reference, scale_product_reference


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
@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (3, 1024), (2, 1500)])
def test_a_product_is_scaled_in_place(device, rows, columns, bias):
    torch.manual_seed(0)
    product = torch.randn(rows, columns, device=device)
    row_scales = torch.rand(rows, 1, device=device)
    column_scales = torch.rand(columns, device=device)
    b = torch.randn(columns, device=device) if bias else None
    wanted = scale_product_reference(product, row_scales, column_scales, b)
    scale_product(product, row_scales, column_scales, b)
    torch.testing.assert_close(product, wanted)
