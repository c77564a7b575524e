"""From logits to tokens: greedy, or Gumbel-max over what top-k, top-p and min-p leave.

top-k, top-p and min-p are applied jointly, each to the probabilities before any filter (SGLang's
order "joint"). A token is then drawn with noise that depends on the request's seed and the token's
place in the answer only.
"""

from __future__ import annotations

import numpy as np
import torch

from .masks import TokenMasks
from .noise import gumbel_noise, noise_keys
from .processing import Processing
from .table import Sampling, SamplingTable

# How many of the likeliest tokens are looked at before the whole vocabulary is sorted.
_CANDIDATES = 1024


def sample(
    logits: torch.Tensor,
    rows: torch.Tensor,
    seq_lens: torch.Tensor,
    table: SamplingTable,
    flags: Sampling,
    next_tokens: torch.Tensor,
    processing: Processing | None = None,
    masks: TokenMasks | None = None,
) -> torch.Tensor:
    """The next token of each sequence: [count] int32 on a GPU, int64 on a CPU.

    logits: [count, vocab] of any floating type; may be changed in place
    rows, seq_lens: [count] on the same device: row of `table`, tokens of the sequence before this
    flags: `table.flags` of the rows
    next_tokens: [max rows or more], of the tokens' type, takes the tokens too, each at its row
    processing: `table.processing` of the rows; changes logits between penalties and temperature
    masks: forbid tokens, whatever was done to their logits
    """
    slots = None
    if Sampling.PENALTIES in flags:
        slots, prompt_lens = table.penalty_slots[rows], table.prompt_lens[rows]
        logits = table.penalties.apply(logits, slots, seq_lens - prompt_lens)
    if processing is not None:
        logits = processing.apply(logits)
    if masks is not None:
        masks.apply(logits)
    if logits.is_cuda:
        from ..kernels.sampling import draw

        random, filtered = Sampling.RANDOM in flags, bool(flags & Sampling.FILTERS)
        tokens = draw(
            logits,
            rows,
            seq_lens,
            table,
            random=random,
            filtered=filtered,
            next_tokens=next_tokens,
        )
    else:
        tokens = _draw(logits.float(), rows, seq_lens, table, flags)
        next_tokens[rows] = tokens
    if slots is not None:
        table.penalties.count(slots, tokens)
    return tokens


def warm_up(logits: torch.Tensor, table: SamplingTable, next_tokens: torch.Tensor) -> None:
    """Compile what a GPU samples logits [1, vocab] of this kind with."""
    row = torch.zeros(1, dtype=torch.int32, device=logits.device)
    for flags in (Sampling.GREEDY, Sampling.RANDOM, Sampling.RANDOM | Sampling.TOP_P):
        sample(logits, row, row, table, flags, next_tokens)
    first = np.zeros(1, dtype=np.int32)
    TokenMasks(first, logits.shape[1] // 32 + 1, lambda masks: masks.fill(-1)).apply(logits)


def _draw(
    logits: torch.Tensor,
    rows: torch.Tensor,
    seq_lens: torch.Tensor,
    table: SamplingTable,
    flags: Sampling,
) -> torch.Tensor:
    """Next tokens [count] int64 by torch's own operations; float32 `logits` are changed."""
    if Sampling.RANDOM not in flags:
        return logits.argmax(dim=-1)
    temperatures = table.temperatures[rows]
    greedy = greedy_tokens = None
    if Sampling.GREEDY in flags:
        greedy, greedy_tokens = temperatures == 0.0, logits.argmax(dim=-1)
        temperatures = temperatures.masked_fill(greedy, 1.0)
    logits.div_(temperatures[:, None])
    if flags & Sampling.FILTERS:
        logits.masked_fill_(logits < _threshold(logits, rows, table, flags)[:, None], -torch.inf)
    keys = noise_keys(table.seeds[rows], seq_lens - table.prompt_lens[rows])
    tokens = logits.add_(gumbel_noise(keys, logits.shape[1])).argmax(dim=-1)
    if greedy is not None and greedy_tokens is not None:
        tokens = torch.where(greedy, greedy_tokens, tokens)
    return tokens


def _threshold(
    logits: torch.Tensor, rows: torch.Tensor, table: SamplingTable, flags: Sampling
) -> torch.Tensor:
    """The smallest logit that all filters leave: [count]. Equal logits stay together."""
    highest = logits.amax(dim=-1)
    threshold = torch.full_like(highest, -torch.inf)
    if Sampling.MIN_P in flags:
        threshold = highest + table.min_ps[rows].log()
    if flags & (Sampling.TOP_K | Sampling.TOP_P):
        top_ps = table.top_ps[rows] if Sampling.TOP_P in flags else None
        threshold = torch.maximum(threshold, _rank_threshold(logits, table.top_ks[rows], top_ps))
    return torch.minimum(threshold, highest)


def _rank_threshold(
    logits: torch.Tensor, top_ks: torch.Tensor, top_ps: torch.Tensor | None
) -> torch.Tensor:
    """The logit of the last token inside both top-k and top-p: [count]."""
    vocab = logits.shape[1]
    log_total = logits.logsumexp(dim=-1)
    count = min(_CANDIDATES, vocab)
    while True:
        ranked = logits.topk(count, dim=-1).values
        kept, undecided = top_ks.long(), top_ks < vocab
        if top_ps is not None:
            cumulative = (ranked - log_total[:, None]).exp().cumsum(dim=-1)
            # The token that crosses top_p stays; without a crossing the row needs more candidates.
            inside = (cumulative < top_ps[:, None]).sum(dim=-1) + 1
            unlimited = (top_ps >= 1.0) | (inside > count)
            kept = torch.minimum(kept, inside.masked_fill(unlimited, vocab))
            undecided |= top_ps < 1.0
        undecided &= kept > count
        if count == vocab or not bool(undecided.any()):
            break
        count = vocab
    last = ranked.gather(1, (kept.clamp(max=count) - 1)[:, None])[:, 0]
    return last.masked_fill(kept >= vocab, -torch.inf)
