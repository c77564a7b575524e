"""Causal attention of long prompt chunks that have no prefix: cuDNN's kernel, as torch ships it.

cuDNN builds a plan for every new shape, which stalls the step that meets it. Lengths are therefore
rounded up to one of eight an octave, so that there are few plans. Nothing is masked for that: what
lies behind a chunk comes later than all of its own tokens, and causality hides it from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .base import AttentionSpec

# Shorter chunks take little time next to the rest of their layer, and share a launch elsewhere.
MIN_TOKENS = 1024
_LENGTHS_PER_OCTAVE = 8


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


def fresh_prefill(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, query_lens: Sequence[int], scale: float
) -> torch.Tensor:
    """Causal attention within each chunk.

    q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim], where the last dimension is
    contiguous. `query_lens` are the lengths of the chunks, which lie one behind the other.
    Returns q's shape, new.
    """
    out = torch.empty_like(q)
    start = 0
    for length in query_lens:
        attend_chunk(q, k, v, out, start, length, scale)
        start += length
    return out


def attend_chunk(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    start: int,
    length: int,
    scale: float,
) -> None:
    """Write causal attention within tokens [start, start + length) to the same rows of `out`.

    q, k, v, out are all of the step's tokens; shapes as for `fresh_prefill`.
    """
    span = padded_length(length)
    heads = [_span(x, start, length, span)[None].transpose(1, 2) for x in (q, k, v)]
    attended = _causal(*heads, scale=scale)[0].transpose(0, 1)
    out[start : start + length] = attended[:length]


def _span(x: torch.Tensor, start: int, length: int, span: int) -> torch.Tensor:
    """`span` tokens from `start` on: those of the next chunks, or zeros, behind the chunk's own."""
    if start + span <= len(x):
        return x[start : start + span]
    return F.pad(x[start : start + length], (0, 0, 0, 0, 0, span - length))


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """q: [1, heads, tokens, head_dim]; k, v: [1, kv_heads, tokens, head_dim]; returns q's shape."""
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    # Called by its own name: choosing it by torch's context manager costs the host more than the
    # launch.
    return torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, False, 0.0, True, False, scale=scale
    )[0]
