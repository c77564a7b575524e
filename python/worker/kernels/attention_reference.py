"""Attention over a paged KV cache in plain PyTorch: what the Triton kernels must compute."""

from __future__ import annotations

import torch


def softmax_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    sliding_window: int | None = None,
    logit_soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """The last `queries` tokens of one sequence attend to all of its `keys`, causally.

    q: [queries, heads, head_dim]; k, v: [keys, kv_heads, head_dim]; sinks: [heads]
    Computes in float32; returns q's shape and dtype.
    """
    group = q.shape[1] // k.shape[1]
    keys, values = (x.float().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * scale
    if logit_soft_cap is not None:
        scores = logit_soft_cap * torch.tanh(scores / logit_soft_cap)
    key = torch.arange(len(k), device=q.device)
    query = torch.arange(len(k) - len(q), len(k), device=q.device)[:, None]
    hidden = key > query
    if sliding_window is not None:
        hidden |= key <= query - sliding_window
    scores.masked_fill_(hidden, -torch.inf)
    if sinks is not None:
        sink = sinks.float()[:, None, None].expand(-1, len(q), 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(-1)[..., : len(k)]
    return torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype)
