"""From a step on the host to a batch on the device: one copy, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..attention.base import AttentionBackend
from ..attention.batch import ForwardBatch, GivenEmbeddings
from ..sampling.upload import upload
from .step_input import StepInput

# The host may be this many steps ahead of the copies to the device.
_BUFFERS = 4


class Uploader:
    """Copies host arrays to a GPU through pinned buffers, all arrays of a step in one transfer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.int32)] * _BUFFERS
        self._copied = [torch.cuda.Event() for _ in range(_BUFFERS)]
        self._next = 0

    def upload(
        self, arrays: Sequence[np.ndarray], into: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """int32 arrays, laid one behind the other into `into` (or new memory): views of it."""
        sizes = [len(array) for array in arrays]
        total = sum(sizes)
        index, self._next = self._next, (self._next + 1) % _BUFFERS
        self._copied[index].synchronize()
        if len(self._buffers[index]) < total:
            size = 1 << (total - 1).bit_length()
            self._buffers[index] = torch.empty(size, dtype=torch.int32, pin_memory=True)
        pinned = self._buffers[index][:total]
        np.concatenate(arrays, out=pinned.numpy(), casting="same_kind")
        if into is None:
            into = torch.empty(total, dtype=torch.int32, device=self._device)
        else:
            into = into[:total]
        into.copy_(pinned, non_blocking=True)
        self._copied[index].record()
        return list(into.split(sizes))


class BatchBuilder:
    """Makes the batches of steps that run without a CUDA graph.

    `page_table` [max rows, max context] int32 and `next_tokens` [max rows or more], the token
    sampled last for each row, live on the device.
    """

    def __init__(
        self,
        backend: AttentionBackend,
        page_table: torch.Tensor,
        next_tokens: torch.Tensor,
        uploader: Uploader | None,
    ) -> None:
        self._backend = backend
        self._page_table = page_table
        self._next_tokens = next_tokens
        self._uploader = uploader

    def build(self, step: StepInput) -> tuple[ForwardBatch, torch.Tensor, torch.Tensor]:
        """The batch of `step`, planned; the page table's rows and the lengths of the sequences
        that get a token, [sampled] each.
        """
        plan = self._backend.plan_host(
            step.seq_lens,
            step.query_lens,
            step.num_decodes,
            padded=step.num_decodes,
            shared_lens=step.shared_lens,
        )
        uploaded = self._upload(
            [
                step.rows,
                step.seq_lens,
                step.starts,
                step.positions,
                step.out_slots,
                step.prompt_ids,
                step.wanted_rows,
                step.rows[step.sampled],
                step.seq_lens[step.sampled],
                np.empty(0, dtype=np.int32) if plan is None else plan.words,
                step.token_type_ids,
                step.table_indices,
                step.table_slots,
            ]
        )
        rows, seq_lens, query_starts, positions, out_slots, prompt_ids = uploaded[:6]
        wanted_rows, sampled_rows, sampled_lens, plan_words, token_type_ids = uploaded[6:11]
        write_page_table(self._page_table, *uploaded[11:])
        decodes = step.num_decodes
        if decodes and self._uploader is not None:  # on a CPU the table is the host's own
            places = (rows[:decodes], positions[:decodes])
            self._page_table.index_put_(places, out_slots[:decodes])
        batch = ForwardBatch(
            input_ids=torch.cat((self._next_tokens.index_select(0, rows[:decodes]), prompt_ids)),
            positions=positions,
            out_slots=out_slots,
            rows=rows,
            seq_lens_device=seq_lens,
            query_starts=query_starts,
            page_table=self._page_table,
            seq_lens=step.seq_lens,
            query_lens=step.query_lens,
            num_decodes=decodes,
            plan=None if plan is None else plan_words,
            logit_rows=None if len(wanted_rows) == len(positions) else wanted_rows,
            shared_lens=step.shared_lens,
            shares_prefixes=plan is not None and plan.shares_prefixes,
            token_type_ids=token_type_ids if len(token_type_ids) else None,
            given=None if step.given is None else self._upload_given(step.given),
        )
        self._backend.plan(batch)
        return batch, sampled_rows, sampled_lens

    def _upload(self, arrays: list[np.ndarray]) -> list[torch.Tensor]:
        if self._uploader is not None:
            return self._uploader.upload(arrays)
        return [torch.from_numpy(array.astype(np.int64)) for array in arrays]

    def _upload_given(self, given: GivenEmbeddings[np.ndarray]) -> GivenEmbeddings[torch.Tensor]:
        device = self._page_table.device
        return GivenEmbeddings(*(upload(torch.from_numpy(each), device) for each in given))


def write_page_table(page_table: torch.Tensor, indices: torch.Tensor, slots: torch.Tensor) -> None:
    """Write `slots` [n] int32 into the entries `indices` [n] of the flattened page table."""
    if len(indices):
        page_table.view(-1).index_put_((indices,), slots)
