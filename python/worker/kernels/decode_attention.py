"""Decode attention: one query a sequence over a paged KV cache, split over the chip by a work list.

The query heads that share a KV head are the rows of one tensor-core tile. A program computes one
item of the work list for one KV head: a part of one sequence's keys. Sequences that have several
parts leave partial results; whichever part arrives last merges them, always in the same order, so
there is no second launch and the result does not depend on the arrival. What `prefix_attention`
left for keys that several sequences share is merged in the same way.
(Flash-Decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html)
"""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import triton
import triton.language as tl

from .attention_reference import softmax_attention
from .dependent_launch import gdc_wait, launches_early
from .online_softmax import NO_MAXIMUM, add_sink, attend_block, padded_head, take_partials

WORDS_PER_ITEM = 6
_SURPLUS = -1
# Items are ordered by length, longest first, but only this finely: sequences of similar length keep
# the batch's order, in which those that share a prefix stand side by side and meet in the L2 cache.
_LENGTH_CLASSES = 8
_BLOCK = 64  # tokens, in which lengths are counted
# Merging a part's result takes about as long as reading so many tokens: items of a sequence that is
# cut are not shorter than sqrt(its length * this), where reading and merging take equally long.
_MERGE_COST_TOKENS = 5
_PROGRAMS_PER_MULTIPROCESSOR = 2
_MERGED_AT_ONCE = 8  # parts


@dataclass(frozen=True)
class DecodeTile:
    """block_n: keys that a program takes at once; the others as Triton understands them."""

    block_n: int
    num_warps: int
    num_stages: int

    @classmethod
    def choose(
        cls, head_dim: int, itemsize: int, shared_memory: int, programs_each: float = 0.0
    ) -> DecodeTile:
        """The tile for a head size, given the bytes of an element of the cache, and of the shared
        memory of a multiprocessor; `programs_each` is how many programs each of them gets.
        """
        head_pad = padded_head(head_dim)
        row_bytes = head_pad * itemsize
        # Small programs, several to a multiprocessor, were fastest on an H200, by a geometric mean
        # over batches of 1 to 1,024 sequences: 3 % behind the best of each.
        tile = cls(min(128, 8192 // head_pad), num_warps=2, num_stages=3)
        if itemsize == 1 or head_pad > 128:
            tile = replace(tile, num_warps=4, num_stages=4 if itemsize > 1 else 6)
        while tile.num_stages > 2 and tile._shared_bytes(row_bytes) > shared_memory:
            tile = replace(tile, num_stages=tile.num_stages - 1)
        # Where there are more programs than can run at once, more of them, with a tile of half the
        # size, gained 3 % on average: 64 sequences of the 8B model take 76 us instead of 83.
        half = replace(tile, block_n=tile.block_n // 2)
        at_once = shared_memory // tile._shared_bytes(row_bytes)
        return half if programs_each > at_once and half.block_n >= 16 else tile

    def _shared_bytes(self, row_bytes: int) -> int:
        queries_and_weights = 16 * row_bytes + 4096
        return 2 * (self.num_stages - 1) * self.block_n * row_bytes + queries_and_weights


def split_target(multiprocessors: int, kv_heads: int) -> int:
    """Into how many items the keys of a step are cut, so that they fill the chip.

    An item makes a program for each KV head.
    """
    return max(1, _PROGRAMS_PER_MULTIPROCESSOR * multiprocessors // kv_heads)


def max_items(sequences: int, target: int) -> int:
    """How many items `plan_decode` makes of `sequences` at most."""
    return sequences + target


def max_partials(target: int) -> int:
    """How many items of a plan belong to sequences with several, at most.

    A sequence is cut when it is longer than one target-th of all keys, into less than twice as many
    parts as it has target-ths.
    """
    return 2 * target


def plan_decode(
    seq_lens: np.ndarray,
    padded: int,
    target: int,
    begins: np.ndarray | None = None,
    shared_partials: np.ndarray | None = None,
) -> np.ndarray:
    """The work list of a step: items of about equal length, the longest first.

    seq_lens: [sequences] int32, all positive; rows from there up to `padded` get an item each, for
        what their length on the device says
    begins, shared_partials: [sequences] int32, where prefixes are shared: the first key that is not
        the prefix kernel's, and how many partial results that one leaves for the sequence
    Returns [max_items(padded, target) * WORDS_PER_ITEM] int32. An item is (sequence, part, parts,
    index of the sequence's first partial result, first key, shared partials); surplus items have
    the sequence -1. A sequence's shared partial results lie before those of its own parts.
    """
    sequences = len(seq_lens)
    shared = np.zeros((padded, 2), dtype=np.int32)
    if begins is not None and shared_partials is not None:
        shared[:sequences, 0], shared[:sequences, 1] = begins, shared_partials
    lengths = seq_lens - shared[:sequences, 0]
    blocks = -(-lengths // _BLOCK)
    item_blocks = np.rint(np.sqrt(lengths * _MERGE_COST_TOKENS) / _BLOCK).astype(np.int32)
    item_blocks = np.maximum(item_blocks, max(1, -(-int(blocks.sum()) // target)))
    parts = np.ones(padded, dtype=np.int32)
    parts[:sequences] = np.where(blocks > 2, -(-blocks // item_blocks), 1)
    length = np.zeros(padded, dtype=np.int32)
    length[:sequences] = -(-blocks // parts[:sequences])
    partials = np.where(parts > 1, parts, 0) + shared[:, 1]
    first_partial = np.cumsum(partials) - partials
    length_class = length * _LENGTH_CLASSES // (int(length.max(initial=0)) + 1)
    order = np.argsort(-length_class, kind="stable")
    sequence = np.repeat(order, parts[order])
    ends = np.cumsum(parts[order])
    plan = np.full((max_items(padded, target), WORDS_PER_ITEM), _SURPLUS, dtype=np.int32)
    items = plan[: len(sequence)]
    items[:, 0] = sequence
    items[:, 1] = np.arange(len(sequence)) - np.repeat(ends - parts[order], parts[order])
    items[:, 2] = parts[sequence]
    items[:, 3] = first_partial[sequence]
    items[:, 4:] = shared[sequence]
    return plan.reshape(-1)


@dataclass(frozen=True)
class DecodeWorkspace:
    """What parts of one sequence, and the spans that it shares, hand to the one that merges them.

    outs: [partials, heads, head_dim] float32; lse: [partials, heads] float32, log2 of the sum of
    exponentials; arrived: [partials, kv_heads] int32, zero between launches
    """

    outs: torch.Tensor
    lse: torch.Tensor
    arrived: torch.Tensor

    @classmethod
    def allocate(
        cls,
        target: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        device: torch.device,
        shared_partials: int = 0,
    ) -> DecodeWorkspace:
        partials = max_partials(target) + shared_partials
        return cls(
            torch.empty((partials, heads, head_dim), dtype=torch.float32, device=device),
            torch.empty((partials, heads), dtype=torch.float32, device=device),
            torch.zeros((partials, kv_heads), dtype=torch.int32, device=device),
        )


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out: torch.Tensor,
    *,
    plan: torch.Tensor,
    rows: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    workspace: DecodeWorkspace,
    tile: DecodeTile,
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    shares_prefixes: bool = False,
) -> None:
    """Write to `out` what each sequence's one query sees; rows of length 0 become zero.

    q, out: [sequences, heads, head_dim], the last two axes contiguous
    k_cache, v_cache: [slots, kv_heads, head_dim] contiguous, in q's dtype or an 8-bit float
    plan: `plan_decode`'s words, all of them; rows: [sequences]; page_table: [rows, context] int32
    seq_lens: [sequences] int32, the query's own token included; sinks: [heads] float32
    shares_prefixes: whether the launch before this one was `prefix_attention`'s, for this plan
    """
    heads, head_dim = q.shape[1:]
    kv_heads = k_cache.shape[1]
    group = heads // kv_heads
    early = shares_prefixes and launches_early(q.device)
    head_pad = padded_head(head_dim)
    group_pad = triton.next_power_of_2(group)
    _decode_kernel[(kv_heads * (len(plan) // WORDS_PER_ITEM),)](
        q,
        k_cache,
        v_cache,
        out,
        workspace.outs,
        workspace.lse,
        workspace.arrived,
        plan,
        rows,
        page_table,
        seq_lens,
        sinks,
        scale,
        q.stride(0),
        out.stride(0),
        page_table.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        GROUP_PAD=group_pad,
        HEAD_DIM=head_dim,
        HEAD_PAD=head_pad,
        BLOCK_H=max(16, group_pad),  # the smallest tensor-core tile has 16 rows
        BLOCK_N=tile.block_n,
        MERGED=_MERGED_AT_ONCE,
        WINDOW=sliding_window,
        SOFT_CAP=logit_soft_cap,
        SHARES=shares_prefixes,
        EARLY=early,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        launch_pdl=early,
    )


# Plans and lengths are slices of one buffer: whether they start at a multiple of 16 bytes changes
# from step to step, and must not compile the kernel again.
@triton.jit(do_not_specialize_on_alignment=["plan", "rows", "seq_lens"])
def _decode_kernel(
    q,
    k_cache,
    v_cache,
    out,
    partial_outs,
    partial_lse,
    arrived,
    plan,
    rows,
    page_table,
    seq_lens,
    sinks,
    scale,
    q_stride,
    out_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MERGED: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    SHARES: tl.constexpr,
    EARLY: tl.constexpr,
):
    # KV heads run side by side: together they read whole cache rows.
    kv_head = tl.program_id(0) % KV_HEADS
    item = plan + tl.program_id(0) // KV_HEADS * 6
    sequence, part = tl.load(item), tl.load(item + 1)
    parts, first_partial = tl.load(item + 2), tl.load(item + 3)
    if sequence < 0:
        if EARLY:  # the launch after this one takes this one's end for the prefix kernel's
            gdc_wait()
        return
    seq_len = tl.load(seq_lens + sequence)
    slots_of = page_table + tl.load(rows + sequence).to(tl.int64) * table_stride
    begin = 0
    if SHARES:
        begin = tl.load(item + 4)
        shared = tl.load(item + 5)
    if WINDOW is not None:
        begin = tl.maximum(seq_len - WINDOW, begin)
    blocks = tl.cdiv(seq_len - begin, BLOCK_N)
    start = begin + blocks * part // parts * BLOCK_N
    end = tl.minimum(begin + blocks * (part + 1) // parts * BLOCK_N, seq_len)

    row = tl.arange(0, BLOCK_H)
    dim = tl.arange(0, HEAD_PAD)
    in_group = row < GROUP
    in_head = (dim < HEAD_DIM)[None, :]
    head = kv_head * GROUP + row
    element = head[:, None] * HEAD_DIM + dim[None, :]
    queries = tl.load(
        q + sequence.to(tl.int64) * q_stride + element, mask=in_group[:, None] & in_head, other=0.0
    )

    maximum = tl.full([BLOCK_H], NO_MAXIMUM, tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, HEAD_PAD], tl.float32)
    # Past the end the last token is read again: nothing foreign, and no mask. Slots are loaded a
    # block ahead and by hand: as a chain of loads in the loop, they would take half of its stages.
    token = start + tl.arange(0, BLOCK_N)
    last = tl.maximum(end - 1, 0)
    slot = tl.load(slots_of + tl.minimum(token, last))
    for _ in range(start, end, BLOCK_N):
        offset = slot.to(tl.int64) * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM
        offset = offset[:, None] + dim[None, :]
        slot = tl.load(slots_of + tl.minimum(token + BLOCK_N, last))
        if HEAD_PAD == HEAD_DIM:
            keys, values = tl.load(k_cache + offset), tl.load(v_cache + offset)
        else:
            keys = tl.load(k_cache + offset, mask=in_head, other=0.0)
            values = tl.load(v_cache + offset, mask=in_head, other=0.0)
        visible = (token < end)[None, :]
        acc, maximum, total = attend_block(
            queries, keys, values, visible, acc, maximum, total, scale, SOFT_CAP
        )
        token += BLOCK_N

    if EARLY:  # the prefix kernel's results are there
        gdc_wait()
    out += sequence.to(tl.int64) * out_stride
    partial_outs += first_partial * (KV_HEADS * GROUP * HEAD_DIM)
    partial_lse += first_partial * (KV_HEADS * GROUP)
    if parts == 1:
        if SHARES:
            acc, maximum, total = take_partials(
                acc, maximum, total, partial_outs + element, partial_lse + head, shared,
                in_group, in_group[:, None] & in_head, KV_HEADS * GROUP, HEAD_DIM, AT_ONCE=1,
            )  # fmt: skip
        if sinks is not None:
            total, rescale = add_sink(maximum, total, sinks, head, in_group)
            acc *= rescale[:, None]
        acc /= tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + element, acc.to(out.dtype.element_ty), mask=in_group[:, None] & in_head)
        return

    before = part
    if SHARES:
        before += shared
    total = tl.where(total > 0, total, 1.0)  # a part without keys counts by its maximum, not at all
    lse = partial_lse + before * (KV_HEADS * GROUP)
    tl.store(lse + head, maximum + tl.log2(total), mask=in_group)
    acc /= total[:, None]
    partial = partial_outs + before * (KV_HEADS * GROUP * HEAD_DIM)
    tl.store(partial + element, acc, mask=in_group[:, None] & in_head)
    tl.debug_barrier()  # all threads have stored before one of them says so
    counter = arrived + first_partial * KV_HEADS + kv_head
    if tl.atomic_add(counter, 1, sem="acq_rel") == parts - 1:
        tl.store(counter, 0)
        _merge_parts(
            out,
            partial_outs,
            partial_lse,
            before - part + parts,
            kv_head,
            sinks,
            KV_HEADS,
            GROUP,
            GROUP_PAD,
            HEAD_DIM,
            HEAD_PAD,
            MERGED,
        )


@triton.jit
def _merge_parts(
    out,
    partial_outs,
    partial_lse,
    count,
    kv_head,
    sinks,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    MERGED: tl.constexpr,
):
    """Write one KV head's query heads of a sequence: its `count` partial results, weighted by their
    sums.
    """
    row = tl.arange(0, GROUP_PAD)
    dim = tl.arange(0, HEAD_PAD)
    in_group = row < GROUP
    in_row = in_group[:, None] & (dim < HEAD_DIM)[None, :]
    head = kv_head * GROUP + row
    element = head[:, None] * HEAD_DIM + dim[None, :]
    maximum = tl.full([GROUP_PAD], NO_MAXIMUM, tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([GROUP_PAD, HEAD_PAD], tl.float32)
    acc, maximum, total = take_partials(
        acc, maximum, total, partial_outs + element, partial_lse + head, count,
        in_group, in_row, KV_HEADS * GROUP, HEAD_DIM, MERGED,
    )  # fmt: skip
    if sinks is not None:
        total, rescale = add_sink(maximum, total, sinks, head, in_group)
        acc *= rescale[:, None]
    acc /= tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + element, acc.to(out.dtype.element_ty), mask=in_row)


def decode_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    rows: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `decode_attention` writes, sequence by sequence in float32; shapes as there."""
    out = torch.zeros_like(q)
    for s, (row, length) in enumerate(zip(rows.tolist(), seq_lens.tolist(), strict=True)):
        slots = page_table[row, :length].long()
        if length:
            out[s : s + 1] = softmax_attention(
                q[s : s + 1],
                k_cache[slots],
                v_cache[slots],
                scale=scale,
                sliding_window=sliding_window,
                logit_soft_cap=logit_soft_cap,
                sinks=sinks,
            )
    return out
