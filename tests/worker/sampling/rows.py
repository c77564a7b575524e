"""Tables and batches for tests of samplers."""

from __future__ import annotations

import numpy as np
import torch

from worker.sampling.sampler import sample
from worker.sampling.table import SamplingRow, SamplingTable

CPU = torch.device("cpu")


def make_table(
    parameters: list[dict], vocab_size: int, device: torch.device = CPU
) -> SamplingTable:
    """A table with a row for each dict of sampling parameters; by default its index is its seed."""
    table = SamplingTable(len(parameters), vocab_size, device)
    rows = [SamplingRow(i, **({"prompt_len": 0, "seed": i} | p)) for i, p in enumerate(parameters)]
    table.set_rows(rows)
    return table


def sample_rows(
    logits: torch.Tensor, table: SamplingTable, rows: list[int], seq_lens: list[int]
) -> torch.Tensor:
    """The next token of each of `rows`; `logits` are left alone."""
    indices = torch.tensor(rows, dtype=torch.int64, device=logits.device)
    lengths = torch.tensor(seq_lens, dtype=torch.int64, device=logits.device)
    flags = table.flags(np.array(rows, dtype=np.int64))
    next_tokens = torch.zeros(len(table.seeds), dtype=torch.int64, device=logits.device)
    return sample(logits.clone(), indices, lengths, table, flags, next_tokens)


def draw_many(logits: torch.Tensor, count: int, **parameters) -> torch.Tensor:
    """`count` tokens [count] from the same logits [vocab], at different places of one answer."""
    table = make_table([parameters], len(logits), logits.device)
    return sample_rows(logits.repeat(count, 1), table, [0] * count, list(range(count)))
