"""Prefix attention: spans of keys that several sequences share, each read once for all of them.

The queries of the sequences that share a span, times the query heads of one KV head, are the rows
of one tensor-core tile, which a single query would leave empty. What it computes is partial: the
decode or extend kernel, which computes the keys that are a sequence's own, merges the partial
results by their log-sum-exp. (Hydragen: https://arxiv.org/abs/2402.05099; ChunkAttention:
https://arxiv.org/abs/2402.15220)
"""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .dependent_launch import gdc_launch_dependents, launches_early
from .extend_attention import ExtendTile
from .online_softmax import LOG2_E, NO_MAXIMUM, attend_cached, padded_head

WORDS_PER_SPAN = 6


def prefix_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    partial_outs: torch.Tensor,
    partial_lse: torch.Tensor,
    *,
    plan: torch.Tensor,
    first_partials: torch.Tensor,
    rows: torch.Tensor,
    page_table: torch.Tensor,
    positions: torch.Tensor,
    tile: ExtendTile,
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
) -> None:
    """Write what the queries see of the spans that their sequences share.

    q: [tokens, heads, head_dim], the last two axes contiguous
    k_cache, v_cache: [slots, kv_heads, head_dim] contiguous, in q's dtype or an 8-bit float
    partial_outs: [partials, heads, head_dim] float32, normalized; partial_lse: [partials, heads]
        float32, log2 of the sum of exponentials
    plan: int32, WORDS_PER_SPAN an item: (sequence whose slots are read, first key, end of the keys,
        first token, tokens, ordinal of the tokens' partial result); surplus items have the sequence
        -1; the tokens times heads of a group fit the tile, and come later than all keys
    first_partials: [tokens] int32, the partial result of a token whose ordinal is 0
    rows: [sequences]; page_table: [rows, context] int32; positions: [tokens]
    """
    heads, head_dim = q.shape[1:]
    kv_heads = k_cache.shape[1]
    _prefix_kernel[(kv_heads * (len(plan) // WORDS_PER_SPAN),)](
        q,
        k_cache,
        v_cache,
        partial_outs,
        partial_lse,
        plan,
        first_partials,
        rows,
        page_table,
        positions,
        scale,
        q.stride(0),
        page_table.stride(0),
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        HEAD_PAD=padded_head(head_dim),
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        WINDOW=sliding_window,
        SOFT_CAP=logit_soft_cap,
        EARLY=launches_early(q.device),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


# See the decode kernel for why alignment is left out.
@triton.jit(do_not_specialize_on_alignment=["plan", "first_partials", "rows", "positions"])
def _prefix_kernel(
    q,
    k_cache,
    v_cache,
    partial_outs,
    partial_lse,
    plan,
    first_partials,
    rows,
    page_table,
    positions,
    scale,
    q_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:  # programs of the next launch take the place of those that end
        gdc_launch_dependents()
    kv_head = tl.program_id(0) % KV_HEADS
    item = plan + tl.program_id(0) // KV_HEADS * 6
    sequence, begin, end = tl.load(item), tl.load(item + 1), tl.load(item + 2)
    first, tokens, ordinal = tl.load(item + 3), tl.load(item + 4), tl.load(item + 5)
    if sequence < 0:
        return
    slots_of = page_table + tl.load(rows + sequence).to(tl.int64) * table_stride

    row = tl.arange(0, BLOCK_M)
    dim = tl.arange(0, HEAD_PAD)
    exists = row < tokens * GROUP
    token = (first + tl.minimum(row // GROUP, tokens - 1)).to(tl.int64)
    head = kv_head * GROUP + row % GROUP
    in_head = (dim < HEAD_DIM)[None, :]
    element = (head * HEAD_DIM)[:, None] + dim[None, :]
    queries = tl.load(q + token[:, None] * q_stride + element, mask=in_head, other=0.0)
    partial = (tl.load(first_partials + token) + ordinal).to(tl.int64)
    position = tl.load(positions + token).to(tl.int32)
    if WINDOW is not None:  # what no row sees is not read
        begin = tl.maximum(begin, tl.min(position) - (WINDOW - 1))

    maximum = tl.full([BLOCK_M], NO_MAXIMUM, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_PAD], tl.float32)
    acc, maximum, total = attend_cached(
        queries, acc, maximum, total, k_cache, v_cache, slots_of, kv_head, begin, end, position,
        scale, dim, in_head, KV_HEADS, HEAD_DIM, HEAD_PAD != HEAD_DIM, BLOCK_N, WINDOW, SOFT_CAP,
    )  # fmt: skip

    total = tl.where(total > 0, total, 1.0)  # a row without keys counts by its maximum: not at all
    tl.store(
        partial_lse + partial * (KV_HEADS * GROUP) + head, maximum + tl.log2(total), mask=exists
    )
    tl.store(
        partial_outs + partial[:, None] * (KV_HEADS * GROUP * HEAD_DIM) + element,
        acc / total[:, None],
        mask=exists[:, None] & in_head,
    )


def prefix_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    partial_outs: torch.Tensor,
    partial_lse: torch.Tensor,
    *,
    plan: torch.Tensor,
    first_partials: torch.Tensor,
    rows: torch.Tensor,
    page_table: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
) -> None:
    """What `prefix_attention` writes, token by token in float32; shapes as there."""
    group = q.shape[1] // k_cache.shape[1]
    for sequence, begin, end, first, tokens, ordinal in plan.view(-1, WORDS_PER_SPAN).tolist():
        if sequence < 0:
            continue
        for token in range(first, first + tokens):
            seen_from = begin
            if sliding_window is not None:
                seen_from = max(begin, int(positions[token]) + 1 - sliding_window)
            slots = page_table[rows[sequence], seen_from:end].long()
            keys, values = (
                c[slots].float().repeat_interleave(group, 1) for c in (k_cache, v_cache)
            )
            scores = torch.einsum("hd,khd->hk", q[token].float(), keys) * scale
            if logit_soft_cap is not None:
                scores = logit_soft_cap * torch.tanh(scores / logit_soft_cap)
            index = int(first_partials[token]) + ordinal
            partial_outs[index] = torch.einsum("hk,khd->hd", scores.softmax(-1), values)
            partial_lse[index] = scores.logsumexp(-1) * LOG2_E.value
