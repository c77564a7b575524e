"""Masks of allowed tokens, applied to some rows of the logits."""

# Launch options, such as num_warps, are no parameters of a kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 4096


def apply_masks(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Set the logits of forbidden tokens to minus infinity, in place.

    The reference, with what the arguments mean, is `worker.sampling.masks.apply_masks`.
    """
    vocab = logits.shape[1]
    _apply[(len(rows), triton.cdiv(vocab, _BLOCK))](
        logits,
        logits.stride(0),
        rows,
        masks,
        masks.stride(0),
        VOCAB=vocab,
        BLOCK=_BLOCK,
        num_warps=4,
    )


@triton.jit
def _apply(
    logits,
    logits_stride,
    rows,
    masks,
    masks_stride,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + i).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < VOCAB
    word = tl.load(masks + i * masks_stride + columns // 32, mask=inside, other=-1)
    forbidden = ((word >> (columns % 32)) & 1) == 0
    nothing = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    tl.store(logits + row * logits_stride + columns, nothing, mask=inside & forbidden)
