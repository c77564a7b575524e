"""Norm of queries and keys, rotary embedding and the write into the KV cache, in one launch."""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .dependent_launch import gdc_launch_dependents, gdc_wait, launches_early

# Heads that one program works on.
_HEADS = 16


def qk_norm_rope_write_reference(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    table: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out_slots: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> None:
    """What `qk_norm_rope_write` does."""
    head_dim = table.shape[-1]
    heads = qkv.view(len(qkv), num_heads + 2 * num_kv_heads, head_dim)
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    cos, sin = table.float()[positions].chunk(2, dim=1)
    for part, weight in ((q, q_weight), (k, k_weight)):
        x = part.float()
        if weight is not None:
            x = F.rms_norm(x, (head_dim,), weight.float(), eps)
        part.copy_(x * cos + x.roll(head_dim // 2, -1) * sin)
    k_cache[out_slots] = k.to(k_cache.dtype)
    v_cache[out_slots] = v.to(v_cache.dtype)


def qk_norm_rope_write(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    table: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out_slots: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> None:
    """Turn queries and keys in place by their positions, and write keys and values to the cache.

    qkv: [tokens, (num_heads + 2 num_kv_heads) · head_dim], contiguous: queries, keys, values
    positions, out_slots: [tokens], of any integer type
    table: [max positions, 2, head_dim], the cosines and the sines, those of the first half negated
    q_weight, k_weight: [head_dim], of the RMSNorm over each head before rope; both None for none
    k_cache, v_cache: [slots, num_kv_heads, head_dim], contiguous; of any floating type, fp8 too
    """
    tokens, head_dim = len(qkv), table.shape[-1]
    all_heads = num_heads + 2 * num_kv_heads
    early = launches_early(qkv.device)
    _qk_norm_rope_write[(tokens, triton.cdiv(all_heads, _HEADS))](
        qkv,
        positions,
        table,
        q_weight,
        k_weight,
        eps,
        k_cache,
        v_cache,
        out_slots,
        QUERY_HEADS=num_heads,
        KV_HEADS=num_kv_heads,
        HALF=head_dim // 2,
        BLOCK=triton.next_power_of_2(head_dim // 2),
        HEADS=_HEADS,
        NORM=q_weight is not None,
        EARLY=early,
        num_warps=4,
        launch_pdl=early,
    )


# Positions and slots are parts of a step's one upload: one compiled kernel for any alignment.
@triton.jit(do_not_specialize_on_alignment=["positions", "out_slots"])
def _qk_norm_rope_write(
    qkv,
    positions,
    table,
    q_weight,
    k_weight,
    eps,
    k_cache,
    v_cache,
    out_slots,
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    NORM: tl.constexpr,
    EARLY: tl.constexpr,
):
    head_dim: tl.constexpr = 2 * HALF
    first_value: tl.constexpr = QUERY_HEADS + KV_HEADS
    all_heads: tl.constexpr = first_value + KV_HEADS
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    dim = tl.arange(0, BLOCK)
    inside = dim < HALF
    mask = (head < all_heads) & inside[None, :]
    is_query, is_value = head < QUERY_HEADS, head >= first_value

    # Positions and slots are older than the launch before this one, whose result comes next.
    if EARLY:
        gdc_launch_dependents()
    angle = table + tl.load(positions + token).to(tl.int64) * 2 * head_dim + dim
    cos = tl.load(angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(angle + head_dim + HALF, mask=inside, other=0.0).to(tl.float32)[None, :]
    slot = tl.load(out_slots + token).to(tl.int64) * KV_HEADS * head_dim
    if EARLY:
        gdc_wait()

    # Every head in two halves, of which rope turns pairs.
    source = qkv + token * all_heads * head_dim + head * head_dim + dim[None, :]
    low_in = tl.load(source, mask=mask, other=0.0)
    high_in = tl.load(source + HALF, mask=mask, other=0.0)
    low, high = low_in.to(tl.float32), high_in.to(tl.float32)
    if NORM:
        squares = tl.sum(low * low + high * high, 1)[:, None]
        scale = tl.rsqrt(squares / head_dim + eps)
        low *= scale * _weights(q_weight, k_weight, is_query, dim, inside)
        high *= scale * _weights(q_weight + HALF, k_weight + HALF, is_query, dim, inside)
    low_out = (low * cos - high * sin).to(qkv.dtype.element_ty)
    high_out = (high * cos + low * sin).to(qkv.dtype.element_ty)
    tl.store(source, low_out, mask=mask & ~is_value)
    tl.store(source + HALF, high_out, mask=mask & ~is_value)

    key = k_cache + slot + (head - QUERY_HEADS) * head_dim + dim[None, :]
    is_key = mask & ~is_query & ~is_value
    tl.store(key, low_out.to(k_cache.dtype.element_ty), mask=is_key)
    tl.store(key + HALF, high_out.to(k_cache.dtype.element_ty), mask=is_key)
    value = v_cache + slot + (head - first_value) * head_dim + dim[None, :]
    tl.store(value, low_in.to(v_cache.dtype.element_ty), mask=mask & is_value)
    tl.store(value + HALF, high_in.to(v_cache.dtype.element_ty), mask=mask & is_value)


@triton.jit
def _weights(q_weight, k_weight, is_query, dim, inside):
    """Each head's norm weights for one half of its dimensions: [heads, dims] float32."""
    of_query = tl.load(q_weight + dim, mask=inside, other=0.0).to(tl.float32)[None, :]
    of_key = tl.load(k_weight + dim, mask=inside, other=0.0).to(tl.float32)[None, :]
    return tl.where(is_query, of_query, of_key)
