"""Frequency, presence and repetition penalties in one pass over the logits."""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 2048


def penalize(
    logits: torch.Tensor, slots: torch.Tensor, seen: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    """A copy of `logits` with penalties: [rows, vocab] float32.

    The reference, with what the arguments mean, is `worker.sampling.penalties.penalize`.
    """
    rows, vocab = logits.shape
    penalized = torch.empty((rows, vocab), dtype=torch.float32, device=logits.device)
    _penalize[(rows, triton.cdiv(vocab, _BLOCK))](
        logits,
        logits.stride(0),
        slots,
        seen,
        factors,
        penalized,
        VOCAB=vocab,
        BLOCK=_BLOCK,
        num_warps=4,
    )
    return penalized


@triton.jit
def _penalize(
    logits,
    logits_stride,
    slots,
    seen,
    factors,
    penalized,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < VOCAB
    x = tl.load(logits + row * logits_stride + columns, mask=mask).to(tl.float32)
    slot = tl.load(slots + row).to(tl.int64)
    if slot != 0:  # the neutral one
        word = tl.load(seen + slot * VOCAB + columns, mask=mask, other=0)
        frequency = tl.load(factors + slot * 3)
        presence = tl.load(factors + slot * 3 + 1)
        repetition = tl.load(factors + slot * 3 + 2)
        count = word >> 1
        x -= frequency * count.to(tl.float32) + tl.where(count > 0, presence, 0.0)
        x = tl.where(word == 0, x, tl.where(x > 0, x / repetition, x * repetition))
    tl.store(penalized + row * VOCAB + columns, x, mask=mask)
