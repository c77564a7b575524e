"""What attention kernels share: above all the softmax that runs along with blocks of keys.

Scores are kept in units of log2, so that `exp2`, which the hardware has, is the only exponential.
"""

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
