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
def online_softmax_step(scores, visible, maximum, total, scale, SOFT_CAP: tl.constexpr):
    """Take a block of keys in.

    scores: [queries, keys] float32, products of queries and keys; visible: broadcasts to them,
        None where all are seen; maximum, total: [queries], the state so far, in units of log2
    Returns the block's weights [queries, keys], the new maximum and total, and the factor [queries]
    by which what was summed up with the old maximum has to be multiplied.
    """
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
    return weights, new_maximum, total * rescale + tl.sum(weights, 1), rescale


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
