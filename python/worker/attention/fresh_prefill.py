"""Causal attention of long prompt chunks that have no prefix: cuDNN's kernel, as torch ships it.

cuDNN builds a plan for every new shape, which stalls the step that meets it. Lengths are therefore
rounded up to one of eight an octave, so that there are few plans. Nothing is masked for that: what
lies behind a chunk comes later than all of its own tokens, and causality hides it from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .base import AttentionSpec

# Less than that, the Triton kernel, which takes all chunks at once, computes as fast.
MIN_TOKENS = 1024
MIN_GROUP_TOKENS = 4096
_LENGTHS_PER_OCTAVE = 8


@dataclass(frozen=True)
class Group:
    """`count` chunks of `length` tokens each, one behind the other from token `start` on."""

    start: int
    length: int
    count: int

    @property
    def tokens(self) -> int:
        return self.length * self.count


def group_chunks(
    starts: np.ndarray, lengths: np.ndarray, is_fresh: np.ndarray
) -> tuple[list[Group], np.ndarray]:
    """The chunks to be attended here, each group in one call, and [chunks] bool: which they are.

    starts, lengths: [chunks], in tokens of the step; is_fresh: [chunks] bool, without a prefix
    """
    groups, grouped, i = [], np.zeros(len(starts), dtype=bool), 0
    while i < len(starts):
        length, end = int(lengths[i]), i + 1
        if is_fresh[i] and padded_length(length) == length:  # neighbours lie as a batch does
            while end < len(starts) and is_fresh[end] and lengths[end] == length:
                end += 1
        group = Group(int(starts[i]), length, end - i)
        if is_fresh[i] and length >= MIN_TOKENS and group.tokens >= MIN_GROUP_TOKENS:
            groups.append(group)
            grouped[i:end] = True
        i = end
    return groups, grouped


def usable(spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether chunks of at least MIN_TOKENS tokens of this layer can be attended here."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) == (9, 0)  # where it was measured
        and torch.backends.cudnn.is_available()
        and dtype in (torch.bfloat16, torch.float16)
        and spec.head_dim % 8 == 0
        and spec.head_dim <= 128
        and spec.sliding_window is None
        and spec.logit_soft_cap is None
        and spec.sinks is None
    )


def padded_length(tokens: int) -> int:
    """The least length with a plan that holds `tokens`, of which there are eight an octave."""
    step = max(1, (1 << (tokens.bit_length() - 1)) // _LENGTHS_PER_OCTAVE)
    return -(-tokens // step) * step


def attend_group(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    group: Group,
    scale: float,
) -> None:
    """Write causal attention within each of the group's chunks to their rows of `out`.

    q, out: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim]: all tokens of the step,
    the last dimension contiguous.
    """
    span = group.tokens if group.count > 1 else padded_length(group.length)
    batched = [
        _span(x, group.start, group.tokens, span).unflatten(0, (group.count, -1)).transpose(1, 2)
        for x in (q, k, v)
    ]
    attended = _causal(*batched, scale=scale).transpose(1, 2).flatten(0, 1)
    out[group.start : group.start + group.tokens] = attended[: group.tokens]


def _span(x: torch.Tensor, start: int, length: int, span: int) -> torch.Tensor:
    """`span` tokens from `start` on: behind the first `length`, other chunks' or zeros."""
    if start + span <= len(x):
        return x[start : start + span]
    return F.pad(x[start : start + length], (0, 0, 0, 0, 0, span - length))


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """q: [chunks, heads, tokens, head_dim]; k, v: [chunks, kv_heads, tokens, head_dim]; like q."""
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    # Called by its own name: choosing it by torch's context manager costs the host more than the
    # launch.
    return torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, False, 0.0, True, False, scale=scale
    )[0]
