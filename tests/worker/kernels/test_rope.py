"""The fused norm, rope and cache write equals its reference, head by head."""

import pytest
import torch

from worker.kernels.rope import qk_norm_rope_write, qk_norm_rope_write_reference

SLOTS, POSITIONS = 12, 50


def run(function, device, *, heads, kv_heads, head_dim, norm, tokens, dtype, cache_dtype, index):
    """qkv and both caches after `function`, from the same random input each time."""
    torch.manual_seed(0)
    angles = torch.randn(POSITIONS, head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    table = torch.cat((cos, cos, -sin, sin), dim=-1).view(POSITIONS, 2, head_dim)
    table = table.to(device, dtype)
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim).to(device, dtype)
    weights = [torch.randn(head_dim).to(device, dtype) if norm else None for _ in range(2)]
    caches = [torch.ones(SLOTS, kv_heads, head_dim).to(device, cache_dtype) for _ in range(2)]
    positions = torch.randint(POSITIONS, (tokens,), dtype=index).to(device)
    slots = torch.randperm(SLOTS)[:tokens].to(device, index)
    function(qkv, positions, table, *weights, 1e-6, *caches, slots, heads, kv_heads)
    return qkv, *caches


def compare(device, **options) -> None:
    results = run(qk_norm_rope_write, device, **options)
    expected = run(qk_norm_rope_write_reference, device, **options)
    for name, result, wanted in zip(("qkv", "k", "v"), results, expected, strict=True):
        # One rounding of the cache's type apart at most, where float32 sums differ.
        step = torch.finfo(result.dtype).eps
        torch.testing.assert_close(
            result.float(), wanted.float(), rtol=max(step, 1e-5), atol=1e-5, msg=name
        )


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256])
def test_every_head_size(device, norm, head_dim) -> None:
    compare(
        device,
        heads=4,
        kv_heads=2,
        head_dim=head_dim,
        norm=norm,
        tokens=3,
        dtype=torch.float32,
        cache_dtype=torch.float32,
        index=torch.int64,
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (9, 3), (14, 2), (32, 8), (17, 17)])
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_any_number_of_heads_and_tokens(device, heads, kv_heads, tokens) -> None:
    compare(
        device,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=16,
        norm=True,
        tokens=tokens,
        dtype=torch.bfloat16,
        cache_dtype=torch.bfloat16,
        index=torch.int32,
    )


@pytest.mark.parametrize("cache_dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_cache_may_be_smaller_than_the_model(device, cache_dtype) -> None:
    # Values that fp8 holds exactly, and no turn: Triton's interpreter rounds to fp8 in its own way.
    torch.manual_seed(0)
    qkv = torch.randn(3, 6 * 64).to(cache_dtype).to(device, torch.bfloat16)
    table = torch.ones(POSITIONS, 2, 64, dtype=torch.bfloat16, device=device)
    table[:, 1] = 0
    caches = [torch.zeros(SLOTS, 1, 64, device=device).to(cache_dtype) for _ in range(2)]
    slots = torch.tensor([7, 0, 11], device=device)
    qk_norm_rope_write(qkv, slots, table, None, None, 0.0, *caches, slots, 4, 1)
    for cache, head in zip(caches, (4, 5), strict=True):
        written = cache.to(torch.bfloat16)
        assert torch.equal(written[slots, 0], qkv.view(3, 6, 64)[:, head])
        assert written.count_nonzero() == written[slots].count_nonzero() > 180
