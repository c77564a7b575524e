"""The slots of many sequences' tokens, one sequence behind the other."""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024


def page_indices_reference(
    page_table: torch.Tensor,
    rows: torch.Tensor,
    seq_lens: torch.Tensor,
    starts: torch.Tensor,
    indices: torch.Tensor,
) -> None:
    """What `page_indices` writes."""
    ends = starts.tolist()
    lengths = zip(rows.tolist(), seq_lens.tolist(), ends[:-1], ends[1:], strict=True)
    for row, length, start, end in lengths:
        indices[start:end] = page_table[row, length - (end - start) : length]


def page_indices(
    page_table: torch.Tensor,
    rows: torch.Tensor,
    seq_lens: torch.Tensor,
    starts: torch.Tensor,
    indices: torch.Tensor,
    longest: int,
) -> None:
    """Write the slots of each sequence's last tokens to its part of `indices`.

    page_table: [max rows, max context] int32; rows, seq_lens: [sequences] of any integer type
    starts: [sequences + 1] of any integer type: sequence s gets indices[starts[s] : starts[s + 1]]
    indices: [at least starts[-1]] int32
    longest: what the longest part has, or more
    """
    _page_indices[(len(rows), triton.cdiv(longest, _BLOCK))](
        page_table, page_table.stride(0), rows, seq_lens, starts, indices, BLOCK=_BLOCK, num_warps=4
    )


# Rows, lengths and starts are parts of a step's one upload: one compiled kernel for any alignment.
@triton.jit(do_not_specialize_on_alignment=["rows", "seq_lens", "starts"])
def _page_indices(page_table, stride, rows, seq_lens, starts, indices, BLOCK: tl.constexpr):
    sequence = tl.program_id(0)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    first = tl.load(seq_lens + sequence) - count
    source = page_table + tl.load(rows + sequence).to(tl.int64) * stride + first
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slots = tl.load(source + column, mask=column < count)
    tl.store(indices + start + column, slots, mask=column < count)
