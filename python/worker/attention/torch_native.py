"""Attention with what torch itself ships: the backend for CPUs, and the reference for all others.

Both phases use torch's fused attention for CPUs (plain matrix products elsewhere), which also
returns each query's log-sum-exp, so that parts computed over different spans of a sequence merge
exactly. Grouped-query attention never expands keys and values: in decode the queries of a group
are viewed as one short sequence, in prefill the group is an axis of stride zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .base import AttentionBackend, AttentionSpec, UnsupportedAttention
from .batch import ForwardBatch

# Sequences are padded to the longest while that wastes less than this share of the keys that are
# read.
_PADDING_WASTE = 0.15
_SMALLEST_BLOCK = 16


@dataclass(frozen=True)
class _DecodePlan:
    """Where the keys of the decoding sequences lie, cut into blocks of one length.

    A sequence has one block or more; `owner` [blocks] names it, and is None when each has just one.

    slots: [blocks * length] int64; padding reads the spare slot behind the pool
    bias: [blocks, 1, 1, length] in the model's dtype, 0 or -inf; None without padding
    """

    blocks: int
    length: int
    slots: torch.Tensor
    bias: torch.Tensor | None
    owner: torch.Tensor | None


@dataclass(frozen=True)
class _PrefillPlan:
    """One prompt chunk: tokens [start, end) of the step, after `prefix` tokens of the sequence."""

    start: int
    end: int
    prefix: int
    row: int


class TorchNativeBackend(AttentionBackend):
    """Any device, any head size; neither windows nor grouping cost a copy."""

    def __init__(self, k_cache: list[torch.Tensor], v_cache: list[torch.Tensor]) -> None:
        super().__init__(k_cache, v_cache)
        self._step: _Step | None = None

    def prepare(self, specs: Sequence[AttentionSpec], dtype: torch.dtype) -> None:
        if any(spec.sinks is not None or spec.logit_soft_cap is not None for spec in specs):
            raise UnsupportedAttention(
                "the torch_native attention backend has neither attention sinks nor a soft cap of "
                "logits; use triton"
            )

    def plan(self, batch: ForwardBatch) -> None:
        self._step = _Step(batch, spare_slot=self.k_cache[0].shape[0] - 1)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        assert self._step is not None, "plan comes before attend"
        step = self._step
        k_cache, v_cache = self.k_cache[spec.layer_id], self.v_cache[spec.layer_id]
        decodes = step.batch.num_decodes
        if not step.prefills:
            return _decode(q, k_cache, v_cache, step.decode_plan(spec.sliding_window, q), spec)
        out = torch.empty_like(q)
        if decodes:
            plan = step.decode_plan(spec.sliding_window, q)
            out[:decodes] = _decode(q[:decodes], k_cache, v_cache, plan, spec)
        for chunk in step.prefills:
            span = slice(chunk.start, chunk.end)
            slots = step.prefill_slots(chunk)
            out[span] = _prefill(q[span], k[span], v[span], k_cache, v_cache, slots, spec)
        return out


class _Step:
    """What all layers of a step share; indices are made when the first layer asks for them."""

    def __init__(self, batch: ForwardBatch, spare_slot: int) -> None:
        self.batch = batch
        self._spare_slot = spare_slot
        self._decode_plans: dict[int | None, _DecodePlan] = {}
        self._prefill_slots: dict[int, torch.Tensor] = {}

    @cached_property
    def prefills(self) -> list[_PrefillPlan]:
        batch, plans, start = self.batch, [], self.batch.num_decodes
        for s in range(batch.num_decodes, len(batch.seq_lens)):
            end = start + int(batch.query_lens[s])
            prefix = int(batch.seq_lens[s] - batch.query_lens[s])
            plans.append(_PrefillPlan(start, end, prefix, s))
            start = end
        return plans

    def prefill_slots(self, chunk: _PrefillPlan) -> torch.Tensor:
        """Slots of the tokens before the chunk: [prefix] int64."""
        slots = self._prefill_slots.get(chunk.row)
        if slots is None:
            row = self.batch.page_table[self.batch.rows[chunk.row], : chunk.prefix]
            slots = self._prefill_slots[chunk.row] = row.to(torch.int64)
        return slots

    def decode_plan(self, window: int | None, like: torch.Tensor) -> _DecodePlan:
        plan = self._decode_plans.get(window)
        if plan is None:
            plan = self._decode_plans[window] = self._plan_decode(window, like)
        return plan

    def _plan_decode(self, window: int | None, like: torch.Tensor) -> _DecodePlan:
        device = like.device
        ends = self.batch.seq_lens_device[: self.batch.num_decodes].long()
        starts = torch.zeros_like(ends) if window is None else (ends - window).clamp(min=0)
        lengths = ends - starts
        length = _block_length(lengths)
        counts = (lengths + length - 1) // length
        owner = torch.repeat_interleave(counts)
        first_block = counts.cumsum(0) - counts
        offset = (torch.arange(len(owner), device=device) - first_block[owner]) * length
        columns = (starts[owner] + offset)[:, None] + torch.arange(length, device=device)
        padding = columns >= ends[owner][:, None]
        rows = self.batch.rows[: self.batch.num_decodes][owner]
        last = self.batch.page_table.shape[1] - 1
        slots = self.batch.page_table[rows[:, None], columns.clamp(max=last)].to(torch.int64)
        bias = None
        if padding.any():
            slots.masked_fill_(padding, self._spare_slot)
            bias = like.new_zeros(padding.shape).masked_fill_(padding, -torch.inf)[:, None, None, :]
        several = len(owner) > len(ends)
        return _DecodePlan(len(owner), length, slots.view(-1), bias, owner if several else None)


def _block_length(lengths: torch.Tensor) -> int:
    """The longest while lengths are alike, else about a quarter of the mean, a power of two."""
    longest, total = int(lengths.max()), int(lengths.sum())
    if longest * len(lengths) <= total * (1 + _PADDING_WASTE):
        return longest
    quarter = total // (4 * len(lengths))
    return max(_SMALLEST_BLOCK, 1 << max(quarter.bit_length() - 1, 0))


def _decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: _DecodePlan,
    spec: AttentionSpec,
) -> torch.Tensor:
    """One query a sequence. q: [sequences, heads, head_dim]; returns the same shape."""
    groups = q.view(q.shape[0], spec.num_kv_heads, -1, spec.head_dim)
    shape = (plan.blocks, plan.length, spec.num_kv_heads, spec.head_dim)
    k = _read(k_cache, plan.slots, q.dtype).view(shape).transpose(1, 2)
    v = _read(v_cache, plan.slots, q.dtype).view(shape).transpose(1, 2)
    if plan.owner is None:
        out, _ = attend(groups, k, v, bias=plan.bias, scale=spec.scale)
        return out.reshape(q.shape)
    queries = groups.index_select(0, plan.owner)
    parts, lse = attend(queries, k, v, bias=plan.bias, scale=spec.scale)
    return _merge_blocks(parts, lse, plan.owner, q.shape[0]).to(q.dtype).view(q.shape)


def _read(cache: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The keys or values of `slots` [n] int64: [n, kv_heads, head_dim]."""
    return cache.index_select(0, slots).to(dtype)


def _merge_blocks(
    parts: torch.Tensor, lse: torch.Tensor, owner: torch.Tensor, sequences: int
) -> torch.Tensor:
    """Softmax-weighted sum of each sequence's blocks.

    parts: [blocks, kv_heads, group, head_dim]; lse: [blocks, kv_heads, group]; owner: [blocks]
    Returns [sequences, kv_heads, group, head_dim] float32.
    """
    highest = lse.new_full((sequences, *lse.shape[1:]), -torch.inf)
    highest.scatter_reduce_(0, owner[:, None, None].expand_as(lse), lse, "amax")
    weight = (lse - highest.index_select(0, owner)).exp_()
    total = torch.zeros_like(highest).index_add_(0, owner, weight)
    out = lse.new_zeros((sequences, *parts.shape[1:]))
    out.index_add_(0, owner, parts * weight[..., None])
    return out.div_(total[..., None])


def _prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    prefix_slots: torch.Tensor,
    spec: AttentionSpec,
) -> torch.Tensor:
    """A chunk of one sequence's prompt, after `prefix_slots` [prefix] int64.

    q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim]. Causal within the chunk.
    """
    tokens, prefix = q.shape[0], len(prefix_slots)
    queries = q.view(tokens, spec.num_kv_heads, -1, spec.head_dim).permute(1, 2, 0, 3)
    group = queries.shape[1]
    if spec.sliding_window is not None and prefix + tokens > spec.sliding_window:
        keys = torch.cat([_read(k_cache, prefix_slots, q.dtype), k])
        values = torch.cat([_read(v_cache, prefix_slots, q.dtype), v])
        bias = _window_bias(tokens, prefix, spec.sliding_window, q)
        out, _ = attend(
            queries, _per_head(keys, group), _per_head(values, group), bias=bias, scale=spec.scale
        )
        return out.permute(2, 0, 1, 3).reshape(q.shape)
    out, lse = attend(
        queries, _per_head(k, group), _per_head(v, group), causal=True, scale=spec.scale
    )
    if prefix:
        keys = _per_head(_read(k_cache, prefix_slots, q.dtype), group)
        values = _per_head(_read(v_cache, prefix_slots, q.dtype), group)
        before, before_lse = attend(queries, keys, values, scale=spec.scale)
        share = torch.sigmoid(lse - before_lse)[..., None].to(torch.float32)
        out = torch.lerp(before.float(), out.float(), share).to(q.dtype)
    return out.permute(2, 0, 1, 3).reshape(q.shape)


def _per_head(x: torch.Tensor, group: int) -> torch.Tensor:
    """View [tokens, kv_heads, head_dim] as [kv_heads, group, tokens, head_dim] without a copy."""
    return x.transpose(0, 1)[:, None].expand(-1, group, -1, -1)


def _window_bias(tokens: int, prefix: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """[1, 1, tokens, prefix + tokens]: 0 where a query sees a key, else -inf."""
    query = torch.arange(prefix, prefix + tokens, device=like.device)[:, None]
    key = torch.arange(prefix + tokens, device=like.device)[None, :]
    hidden = (key > query) | (key <= query - window)
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[None, None]


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    causal: bool = False,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention and the log-sum-exp of each query's scores, in float32.

    q: [batch, heads, queries, head_dim]; k, v: [batch, heads, keys, head_dim]; bias broadcasts to
    [batch, heads, queries, keys]. `causal` is for as many queries as keys. Returns q's shape, and
    [batch, heads, queries].
    """
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
    return attend_reference(q, k, v, scale=scale, causal=causal, bias=bias)


def attend_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    causal: bool = False,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend` in plain matrix products, on any device."""
    scores = torch.matmul(q, k.transpose(-2, -1)).float() * scale
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(hidden, -torch.inf)
    if bias is not None:
        scores += bias
    lse = scores.logsumexp(dim=-1)
    return torch.matmul(scores.softmax(dim=-1).to(v.dtype), v), lse
