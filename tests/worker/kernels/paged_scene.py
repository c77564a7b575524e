"""A batch of sequences whose keys and values lie scattered over a paged cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}
_needs_gpu = pytest.mark.skipif(
    DEVICE.type == "cpu", reason="the interpreter multiplies no bfloat16"
)
# Of queries and of the cache.
ELEMENT_TYPES = [
    (torch.float16, torch.float16),
    (torch.float16, torch.float8_e5m2),
    (torch.float32, torch.float8_e4m3fn),
    pytest.param(torch.bfloat16, torch.bfloat16, marks=_needs_gpu),
    pytest.param(torch.bfloat16, torch.float8_e4m3fn, marks=_needs_gpu),
]


@dataclass(frozen=True)
class PagedScene:
    """The tensors of a step, named as the kernels' arguments are."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    rows: torch.Tensor
    page_table: torch.Tensor
    seq_lens: torch.Tensor
    query_starts: torch.Tensor

    @property
    def host_seq_lens(self) -> np.ndarray:
        return self.seq_lens.cpu().numpy()

    @property
    def host_query_lens(self) -> np.ndarray:
        return np.diff(self.query_starts.cpu().numpy())


def paged_scene(
    seq_lens: list[int],
    query_lens: list[int],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> PagedScene:
    """`seq_lens` count this step's `query_lens`; the step's keys are in the cache, and given.

    Slots are in random order, and those of no sequence, like the page table's unused entries,
    poison what reads them. q, k and v are slices of one projection, as the model makes them.
    """
    random = torch.Generator().manual_seed(seed)
    tokens = sum(query_lens)
    slots = torch.randperm(sum(seq_lens) + 5, generator=random)
    cache = torch.full((2, len(slots), kv_heads, head_dim), torch.nan)
    page_table = torch.full((len(seq_lens) + 2, max(seq_lens) + 3), 2**30, dtype=torch.int32)
    rows = torch.randperm(len(page_table), generator=random)[: len(seq_lens)]
    qkv = torch.randn(tokens, heads + 2 * kv_heads, head_dim, generator=random).to(dtype)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
    used = token = 0
    for row, length, new in zip(rows.tolist(), seq_lens, query_lens, strict=True):
        own = slots[used : used + length]
        page_table[row, :length] = own.to(torch.int32)
        cache[:, own] = torch.randn(2, length, kv_heads, head_dim, generator=random)
        written = own[length - new :]
        cache[0, written] = k[token : token + new].float()
        cache[1, written] = v[token : token + new].float()
        used, token = used + length, token + new
    k_cache, v_cache = cache.to(cache_dtype or dtype).to(DEVICE)
    q, k, v = qkv.to(DEVICE).split([heads, kv_heads, kv_heads], dim=1)
    starts = torch.tensor([0, *query_lens]).cumsum(0).to(torch.int32)
    return PagedScene(
        q=q,
        k=k,
        v=v,
        k_cache=k_cache,
        v_cache=v_cache,
        rows=rows.to(DEVICE),
        page_table=page_table.to(DEVICE),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32, device=DEVICE),
        query_starts=starts.to(DEVICE),
    )
