"""Extend attention: prompt chunks, each after its cached prefix (paged) and causal within itself.

The rows of a tile are the query heads of one KV head for some consecutive tokens, so that a short
chunk fills the tile too and keys are loaded once for the whole group. A program reads the prefix
through the page table, then the step's own keys and values as they are given: fully visible blocks
first, by the copy engine of Hopper GPUs, and only those at the diagonal with a mask.
(FlashAttention-2: https://arxiv.org/abs/2307.08691)
"""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .attention_reference import softmax_attention
from .online_softmax import (
    NO_MAXIMUM,
    add_sink,
    attend_block,
    attend_cached,
    attend_span,
    padded_head,
    take_partials,
)

WORDS_PER_TILE = 4
# A head takes a multiple of so many bytes: the copy engine reads nothing that is aligned less.
HEAD_BYTES_MULTIPLE = 16


@dataclass(frozen=True)
class SharedPartials:
    """What `prefix_attention` left for the tokens of a step.

    outs: [partials, heads, head_dim] float32; lse: [partials, heads] float32
    first: [tokens] int32, index of a token's first
    """

    outs: torch.Tensor
    lse: torch.Tensor
    first: torch.Tensor


@dataclass(frozen=True)
class ExtendTile:
    """block_m: rows (tokens times query heads of a group), block_n: keys at once."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    @classmethod
    def choose(cls, head_dim: int, itemsize: int, shared_memory: int) -> ExtendTile:
        """The tile for a head size, given the bytes of an element of the queries, and of the shared
        memory that a program may have.
        """
        row_bytes = padded_head(head_dim) * itemsize
        if row_bytes <= 128:
            tile = cls(block_m=128, block_n=128, num_warps=8, num_stages=3)
        elif row_bytes <= 256:
            tile = cls(block_m=64, block_n=64, num_warps=4, num_stages=3)
        elif row_bytes <= 512:
            tile = cls(block_m=128, block_n=32, num_warps=8, num_stages=3)
        else:
            tile = cls(block_m=32, block_n=32, num_warps=4, num_stages=2)
        while tile._shared_bytes(row_bytes) > shared_memory and tile.block_n > 16:
            if tile.num_stages > 2:
                tile = replace(tile, num_stages=tile.num_stages - 1)
            else:
                tile = replace(tile, block_n=tile.block_n // 2)
        return tile

    def tokens(self, group: int) -> int:
        """How many tokens' queries, `group` heads each, the tile holds."""
        assert group <= self.block_m, (
            f"{group} query heads share a KV head: more than a tile's rows"
        )
        return self.block_m // group

    def _shared_bytes(self, row_bytes: int) -> int:
        return (self.block_m + 2 * self.num_stages * self.block_n) * row_bytes


def plan_extend(
    seq_lens: np.ndarray,
    query_lens: np.ndarray,
    sequences: np.ndarray,
    tile_tokens: int,
    begins: np.ndarray | None = None,
    shared_partials: np.ndarray | None = None,
) -> np.ndarray:
    """The work list of some chunks: those with the most work first, each from its last tile on.

    A chunk's tiles stay together, so that its keys are read from the L2 cache; the last tiles see
    the most keys and start first, so that what ends the launch is short.

    seq_lens, query_lens: int32, of all the step's sequences; sequences: [chunks], whose to plan
    begins, shared_partials: int32, of all, where prefixes are shared: the first key that is not the
        prefix kernel's, and how many partial results that one leaves for each token
    Returns [tiles * WORDS_PER_TILE] int32: (sequence, first token of the tile in its chunk, first
    key, shared partials).
    """
    none = np.zeros_like(seq_lens)
    begins, shared_partials = (none if x is None else x for x in (begins, shared_partials))
    chunk_tokens = query_lens[sequences].astype(np.int64)
    keys = seq_lens[sequences] - begins[sequences] - chunk_tokens // 2
    order = np.argsort(-chunk_tokens * keys, kind="stable")
    tiles = -(-chunk_tokens[order] // tile_tokens)
    ends = np.cumsum(tiles)
    sequence = np.repeat(sequences[order], tiles)
    plan = np.empty((int(ends[-1]), WORDS_PER_TILE), dtype=np.int32)
    plan[:, 0] = sequence
    plan[:, 1] = (np.repeat(ends, tiles) - 1 - np.arange(len(plan))) * tile_tokens
    plan[:, 2] = begins[sequence]
    plan[:, 3] = shared_partials[sequence]
    return plan.reshape(-1)


def _blocks(x: torch.Tensor, tokens: int) -> TensorDescriptor:
    """x [tokens, kv_heads, head_dim], to be loaded in blocks of one head's `tokens` tokens; what
    is padding of the head or comes after the last token is zero.
    """
    heads, head_dim = x.shape[1:]
    shape, strides = [heads, x.shape[0], head_dim], [head_dim, x.stride(0), 1]
    return TensorDescriptor(x, shape, strides, [1, tokens, padded_head(head_dim)])


def extend_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out: torch.Tensor,
    *,
    plan: torch.Tensor,
    query_starts: torch.Tensor,
    rows: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    tile: ExtendTile,
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    shared: SharedPartials | None = None,
) -> None:
    """Write to `out` what the chunks' queries see; the rows of other tokens are left alone.

    q, out: [tokens, heads, head_dim], k, v: [tokens, kv_heads, head_dim], the whole step's; the
        last two axes contiguous, any stride between tokens; heads as HEAD_BYTES_MULTIPLE says
    k_cache, v_cache: [slots, kv_heads, head_dim] contiguous, in q's dtype or an 8-bit float
    plan: `plan_extend`'s words, made for this tile
    query_starts: [sequences + 1] int32; rows: [sequences]; page_table: [rows, context] int32
    seq_lens: [sequences] int32, the chunk included; sinks: [heads] float32
    shared: what the plan's shared partial results are; None if it has none
    """
    heads, head_dim = q.shape[1:]
    kv_heads = k.shape[1]
    partials = (None, None, None) if shared is None else (shared.outs, shared.lse, shared.first)
    group = heads // kv_heads
    _extend_kernel[(kv_heads * (len(plan) // WORDS_PER_TILE),)](
        q,
        k,
        v,
        _blocks(k, tile.block_n),
        _blocks(v, tile.block_n),
        k_cache,
        v_cache,
        out,
        *partials,
        plan,
        query_starts,
        rows,
        page_table,
        seq_lens,
        sinks,
        scale,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        out.stride(0),
        page_table.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        TILE_TOKENS=tile.tokens(group),
        HEAD_DIM=head_dim,
        HEAD_PAD=padded_head(head_dim),
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        WINDOW=sliding_window,
        SOFT_CAP=logit_soft_cap,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


# See the decode kernel for why alignment is left out.
@triton.jit(
    do_not_specialize_on_alignment=["first_partials", "plan", "query_starts", "rows", "seq_lens"]
)
def _extend_kernel(
    q,
    k,
    v,
    k_blocks,
    v_blocks,
    k_cache,
    v_cache,
    out,
    partial_outs,
    partial_lse,
    first_partials,
    plan,
    query_starts,
    rows,
    page_table,
    seq_lens,
    sinks,
    scale,
    q_stride,
    k_stride,
    v_stride,
    out_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
):
    kv_head = tl.program_id(0) % KV_HEADS
    tile = plan + tl.program_id(0) // KV_HEADS * 4
    sequence, first = tl.load(tile), tl.load(tile + 1)
    chunk_start = tl.load(query_starts + sequence)
    chunk_tokens = tl.load(query_starts + sequence + 1) - chunk_start
    prefix = tl.load(seq_lens + sequence) - chunk_tokens
    slots_of = page_table + tl.load(rows + sequence).to(tl.int64) * table_stride

    row = tl.arange(0, BLOCK_M)
    dim = tl.arange(0, HEAD_PAD)
    end = tl.minimum(first + TILE_TOKENS, chunk_tokens)
    query = first + row // GROUP  # token in the chunk
    exists = (query < end) & (row < TILE_TOKENS * GROUP)
    query = tl.minimum(query, end - 1)
    token = (chunk_start + query).to(tl.int64)
    head = kv_head * GROUP + row % GROUP
    element = (head * HEAD_DIM)[:, None] + dim[None, :]
    in_head = (dim < HEAD_DIM)[None, :]
    queries = tl.load(q + token[:, None] * q_stride + element, mask=in_head, other=0.0)

    maximum = tl.full([BLOCK_M], NO_MAXIMUM, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_PAD], tl.float32)

    # Keys count from the start of the prefix, then from the start of the chunk.
    k_own = k + chunk_start.to(tl.int64) * k_stride + kv_head * HEAD_DIM
    v_own = v + chunk_start.to(tl.int64) * v_stride + kv_head * HEAD_DIM
    seen_from = 0
    own_from = 0
    if partial_outs is not None:
        seen_from = tl.load(tile + 2)
        partial = tl.load(first_partials + token).to(tl.int64)
        acc, maximum, total = take_partials(
            acc, maximum, total,
            partial_outs + partial[:, None] * (KV_HEADS * GROUP * HEAD_DIM) + element,
            partial_lse + partial * (KV_HEADS * GROUP) + head,
            tl.load(tile + 3), exists, exists[:, None] & in_head,
            KV_HEADS * GROUP, HEAD_DIM, AT_ONCE=1,
        )  # fmt: skip
    if WINDOW is not None:
        seen_from = tl.minimum(tl.maximum(prefix + first - (WINDOW - 1), seen_from), prefix)
        own_from = tl.maximum(first - (WINDOW - 1), 0)
    acc, maximum, total = attend_cached(
        queries, acc, maximum, total, k_cache, v_cache, slots_of, kv_head, seen_from, prefix,
        prefix + query, scale, dim, in_head, KV_HEADS, HEAD_DIM, HEAD_PAD != HEAD_DIM, BLOCK_N,
        WINDOW, SOFT_CAP,
    )  # fmt: skip
    diagonal = own_from
    if WINDOW is None:
        diagonal = (first + 1) // BLOCK_N * BLOCK_N
        for key in range(0, diagonal, BLOCK_N):
            block = [kv_head, chunk_start + key, 0]
            keys = k_blocks.load(block).reshape(BLOCK_N, HEAD_PAD)
            values = v_blocks.load(block).reshape(BLOCK_N, HEAD_PAD)
            acc, maximum, total = attend_block(
                queries, keys, values, None, acc, maximum, total, scale, SOFT_CAP
            )
    acc, maximum, total = attend_span(
        queries, acc, maximum, total, k_own, v_own,
        None, k_stride, v_stride, diagonal, end, query,
        scale, dim, in_head, HEAD_PAD != HEAD_DIM, BLOCK_N, WINDOW, SOFT_CAP,
    )  # fmt: skip

    if sinks is not None:
        total, rescale = add_sink(maximum, total, sinks, head, exists)
        acc *= rescale[:, None]
    acc /= total[:, None]
    tl.store(
        out + token[:, None] * out_stride + element,
        acc.to(out.dtype.element_ty),
        mask=exists[:, None] & in_head,
    )


def extend_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    query_starts: torch.Tensor,
    rows: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    sequences: Sequence[int],
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `extend_attention` writes for `sequences`, in float32; other rows are zero."""
    out = torch.zeros_like(q)
    starts, lengths = query_starts.tolist(), seq_lens.tolist()
    for s in sequences:
        own = slice(starts[s], starts[s + 1])
        prefix = lengths[s] - (starts[s + 1] - starts[s])
        slots = page_table[rows[s], :prefix].long()
        out[own] = softmax_attention(
            q[own],
            torch.cat([k_cache[slots].to(k.dtype), k[own]]),
            torch.cat([v_cache[slots].to(v.dtype), v[own]]),
            scale=scale,
            sliding_window=sliding_window,
            logit_soft_cap=logit_soft_cap,
            sinks=sinks,
        )
    return out
