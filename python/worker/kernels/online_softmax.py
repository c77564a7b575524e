"""What attention kernels share: above all the softmax that runs along with blocks of keys.

Scores are kept in units of log2, so that `exp2`, which the hardware has, is the only exponential.
"""

# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Lower than any score, yet finite: a row that has seen no key has this maximum, and no difference
# with it is NaN.
NO_MAXIMUM = tl.constexpr(-1e30)


def padded_head(head_dim: int) -> int:
    """The elements of a head in a tile: a power of two, as Triton's shapes, and a tensor core's."""
    return max(16, 1 << (head_dim - 1).bit_length())


@triton.jit
def attend_block(
    queries, keys, values, visible, acc, maximum, total, scale, SOFT_CAP: tl.constexpr
):
    """Take a block of keys in.

    queries: [queries, head]; keys, values: [keys, head], also in another type than the queries
    visible: broadcasts to [queries, keys], None where all are seen
    acc: [queries, head] float32, values summed up by their weights; maximum, total: [queries], the
        highest score and the sum of weights; weights are relative to the maximum, in units of log2
    Returns the new acc, maximum and total.
    """
    scores = tl.dot(queries, tl.trans(keys.to(queries.dtype)), input_precision="ieee")
    if SOFT_CAP is None:
        factor = scale * LOG2_E
    else:  # cap * tanh(score / cap)
        scores = 2 * tl.sigmoid(scores * (2 * scale / SOFT_CAP)) - 1
        factor = SOFT_CAP * LOG2_E
    if visible is not None:
        scores = tl.where(visible, scores, -float("inf"))
    new_maximum = tl.maximum(maximum, tl.max(scores, 1) * factor)
    weights = tl.exp2(scores * factor - new_maximum[:, None])
    rescale = tl.exp2(maximum - new_maximum)
    total = total * rescale + tl.sum(weights, 1)
    values = values.to(queries.dtype)
    acc = tl.dot(weights.to(queries.dtype), values, acc * rescale[:, None], input_precision="ieee")
    return acc, new_maximum, total


@triton.jit
def add_sink(maximum, total, sinks, heads, mask):
    """Let an attention sink, a score without a value, take its share of each head's softmax.

    maximum, total: [heads], the state in units of log2; sinks: pointer to [num_heads] float32.
    Returns the new total, relative to the new maximum, and the factor for what was summed up.
    """
    sink = tl.load(sinks + heads, mask=mask, other=0.0) * LOG2_E
    new_maximum = tl.maximum(maximum, sink)
    rescale = tl.exp2(maximum - new_maximum)
    return total * rescale + tl.exp2(sink - new_maximum), rescale


@triton.jit
def attend_span(
    queries,
    acc,
    maximum,
    total,
    k_head,
    v_head,
    slots_of,
    k_stride,
    v_stride,
    start,
    end,
    query,
    scale,
    dim,
    in_head,
    PADDED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
):
    """Take in the keys [start, end): through `slots_of`, or, where that is None, one after another.

    query: [rows], the last key that each row sees; None if all rows see all keys, which come in
        whole blocks. The rest is as in `attend_block`.
    """
    # Past the end the last key is read again: nothing foreign, and no mask. Slots are loaded a
    # block ahead, as in the decode kernel.
    key = start + tl.arange(0, BLOCK_N)
    final = tl.maximum(end - 1, 0)
    at = tl.minimum(key, final)
    if slots_of is not None:
        at = tl.load(slots_of + at)
    for _ in range(start, end, BLOCK_N):
        k_at = at.to(tl.int64)[:, None] * k_stride + dim[None, :]
        v_at = at.to(tl.int64)[:, None] * v_stride + dim[None, :]
        at = tl.minimum(key + BLOCK_N, final)
        if slots_of is not None:
            at = tl.load(slots_of + at)
        if PADDED:
            keys = tl.load(k_head + k_at, mask=in_head, other=0.0)
            values = tl.load(v_head + v_at, mask=in_head, other=0.0)
        else:
            keys, values = tl.load(k_head + k_at), tl.load(v_head + v_at)
        visible = None
        if query is not None:
            visible = key[None, :] <= tl.minimum(query, final)[:, None]
            if WINDOW is not None:
                visible &= key[None, :] > (query - WINDOW)[:, None]
        acc, maximum, total = attend_block(
            queries, keys, values, visible, acc, maximum, total, scale, SOFT_CAP
        )
        key += BLOCK_N
    return acc, maximum, total


@triton.jit
def attend_cached(
    queries,
    acc,
    maximum,
    total,
    k_cache,
    v_cache,
    slots_of,
    kv_head,
    begin,
    end,
    query,
    scale,
    dim,
    in_head,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
):
    """Take in one head's keys [begin, end) of the cache, none of which comes after the queries.

    slots_of: pointer to the slots of the sequence; query: [rows], their positions, for the window
    """
    k_head, v_head = k_cache + kv_head * HEAD_DIM, v_cache + kv_head * HEAD_DIM
    stride = KV_HEADS * HEAD_DIM
    masked = begin
    if WINDOW is None:
        masked += (end - begin) // BLOCK_N * BLOCK_N
        acc, maximum, total = attend_span(
            queries, acc, maximum, total, k_head, v_head, slots_of, stride, stride, begin, masked,
            None, scale, dim, in_head, PADDED, BLOCK_N, WINDOW, SOFT_CAP,
        )  # fmt: skip
    return attend_span(
        queries, acc, maximum, total, k_head, v_head, slots_of, stride, stride, masked, end,
        query, scale, dim, in_head, PADDED, BLOCK_N, WINDOW, SOFT_CAP,
    )  # fmt: skip


@triton.jit
def take_partials(
    acc,
    maximum,
    total,
    outs,
    lse,
    count,
    in_rows,
    in_elements,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Merge `count` partial results into the state, in their order.

    outs, lse: pointers to the first one, [rows, head] and [rows]: outputs, and the log2 of the sums
        of exponentials; the next lies HEADS * HEAD_DIM, or HEADS, behind
    in_rows, in_elements: masks of the two. The rest is as in `attend_block`.
    """
    for start in range(0, count, AT_ONCE):
        for i in tl.static_range(AT_ONCE):  # unrolled, so that all of its loads are on their way
            index = start + i
            exists = index < count
            # Other multiprocessors wrote this: past the L1 cache.
            part_lse = tl.load(
                lse + index * HEADS,
                mask=in_rows & exists,
                other=-float("inf"),
                cache_modifier=".cg",
            )
            part = tl.load(
                outs + index * (HEADS * HEAD_DIM),
                mask=in_elements & exists,
                other=0.0,
                cache_modifier=".cg",
            )
            new_maximum = tl.maximum(maximum, part_lse)
            weight = tl.exp2(part_lse - new_maximum)
            rescale = tl.exp2(maximum - new_maximum)
            total = total * rescale + weight
            acc = acc * rescale[:, None] + part * weight[:, None]
            maximum = new_maximum
    return acc, maximum, total
