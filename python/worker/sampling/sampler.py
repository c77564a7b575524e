"""From logits to tokens: greedy, or Gumbel-max over what top-k, top-p and min-p leave."""

from __future__ import annotations

import torch

from .batch import SamplingBatch

# How many of the likeliest tokens are looked at before the whole vocabulary is sorted.
_CANDIDATES = 1024

_MASK32 = 0xFFFFFFFF


def sample(logits: torch.Tensor, batch: SamplingBatch | None) -> torch.Tensor:
    """The next token of each row: [rows] int64.

    logits: [rows, vocab] float32; changed in place. `batch` None means that all rows are greedy.

    top-k, top-p and min-p are applied jointly, each to the probabilities before any filter
    (SGLang's order "joint"). A token is then drawn by the Gumbel-max trick with noise that depends
    on the row's key only.
    """
    if batch is None:
        return logits.argmax(dim=-1)
    greedy_tokens = logits.argmax(dim=-1) if batch.greedy is not None else None
    logits.div_(batch.temperatures[:, None])
    if batch.top_ps is not None or batch.top_ks is not None or batch.min_ps is not None:
        logits.masked_fill_(logits < _threshold(logits, batch)[:, None], -torch.inf)
    logits.add_(gumbel_noise(batch.keys, logits.shape[1]))
    tokens = logits.argmax(dim=-1)
    if greedy_tokens is not None and batch.greedy is not None:
        tokens = torch.where(batch.greedy, greedy_tokens, tokens)
    return tokens


def _threshold(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """The smallest logit of each row that all filters leave: [rows]. Equal logits stay together."""
    highest = logits.amax(dim=-1)
    threshold = torch.full_like(highest, -torch.inf)
    if batch.min_ps is not None:
        threshold = highest + batch.min_ps.log()
    if batch.top_ks is not None or batch.top_ps is not None:
        threshold = torch.maximum(threshold, _rank_threshold(logits, batch))
    return torch.minimum(threshold, highest)


def _rank_threshold(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """The logit of the last token inside both top-k and top-p: [rows]."""
    rows, vocab = logits.shape
    log_total = logits.logsumexp(dim=-1)
    count = min(_CANDIDATES, vocab)
    while True:
        ranked = logits.topk(count, dim=-1).values
        kept = torch.full((rows,), vocab, dtype=torch.int64, device=logits.device)
        if batch.top_ks is not None:
            kept = torch.minimum(kept, batch.top_ks)
        if batch.top_ps is not None:
            cumulative = (ranked - log_total[:, None]).exp().cumsum(dim=-1)
            # The token that crosses top_p stays; without a crossing the row needs more candidates.
            inside = (cumulative < batch.top_ps[:, None]).sum(dim=-1) + 1
            crossed = inside <= count
            no_limit = batch.top_ps >= 1.0
            inside = torch.where(no_limit | ~crossed, torch.full_like(inside, vocab), inside)
            kept = torch.minimum(kept, inside)
            undecided = (~crossed & ~no_limit & (kept > count)).any()
        else:
            undecided = (kept.clamp(max=vocab - 1) > count).any() & (kept < vocab).any()
        if count == vocab or not bool(undecided):
            break
        count = vocab
    last = ranked.gather(1, (kept.clamp(max=count) - 1)[:, None])[:, 0]
    return torch.where(kept >= vocab, torch.full_like(last, -torch.inf), last)


def gumbel_noise(keys: torch.Tensor, columns: int) -> torch.Tensor:
    """Gumbel noise [rows, columns] float32 from `keys` [rows] int64, by a counter-based hash.

    The hash is the finalizer of MurmurHash3 over 32 bits, computed twice with the two halves of
    the key.
    """
    index = torch.arange(columns, device=keys.device, dtype=torch.int64)
    x = (index * 0x9E3779B1)[None, :] + (keys & _MASK32)[:, None]
    x = _mix(x & _MASK32)
    x = _mix((x + (keys >> 32)[:, None]) & _MASK32)
    uniform = (x.to(torch.float64) + 0.5).mul_(1.0 / (1 << 32))
    return uniform.log_().neg_().log_().neg_().to(torch.float32)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's 32-bit finalizer on int64 lanes that hold 32-bit values."""
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _MASK32
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _MASK32
    return x ^ (x >> 16)
