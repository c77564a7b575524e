"""One step of the engine: which requests decode, which prompts are prefilled and how far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..attention.batch import ForwardBatch
from ..cache.kv_cache import KVCache, Sequence
from ..sampling.batch import SamplingBatch, SamplingRow, noise_key
from .request import Request


@dataclass(frozen=True)
class PrefillChunk:
    """Tokens [start, end) of a request's text are computed in this step."""

    request: Request
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        return self.end == self.request.length

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Step:
    """Requests that decode their last token, and chunks of prompts. Not both are empty."""

    decodes: list[Request]
    prefills: list[PrefillChunk]

    @property
    def requests(self) -> list[Request]:
        return self.decodes + [chunk.request for chunk in self.prefills]

    @property
    def sampled(self) -> list[Request]:
        """The requests that get a token from this step, in the order of its logits."""
        return self.decodes + [chunk.request for chunk in self.prefills if chunk.is_last]


def sequence_of(request: Request) -> Sequence:
    """The slots of an admitted request."""
    assert request.sequence is not None, "a request in a step has slots"
    return request.sequence


def forward_batch(step: Step, cache: KVCache, device: torch.device) -> ForwardBatch:
    """The tensors of `step`'s forward pass."""
    spans = [(sequence_of(r), r, r.length - 1, r.length) for r in step.decodes]
    spans += [(sequence_of(c.request), c.request, c.start, c.end) for c in step.prefills]

    def on_device(parts: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(
            device, non_blocking=True
        )

    seq_lens = [end for *_, end in spans]
    rows = torch.tensor([sequence.row for sequence, *_ in spans])
    page_table = cache.page_table
    if device.type != "cpu":
        page_table = page_table[rows, : max(seq_lens)].to(device)
        rows = torch.arange(len(spans), device=device)
    return ForwardBatch(
        input_ids=on_device([request.tokens[start:end] for _, request, start, end in spans]),
        positions=on_device([np.arange(start, end) for _, _, start, end in spans]),
        out_slots=on_device([cache.slots(seq, start, end) for seq, _, start, end in spans]),
        rows=rows,
        page_table=page_table,
        seq_lens=seq_lens,
        query_lens=[end - start for _, _, start, end in spans],
        num_decodes=len(step.decodes),
    )


def logit_rows(step: Step, device: torch.device) -> torch.Tensor | None:
    """Indices [sampled] of the tokens whose logits are wanted; None if that is every token."""
    if not step.prefills:
        return None
    rows = list(range(len(step.decodes)))
    end = len(step.decodes)
    for chunk in step.prefills:
        end += len(chunk)
        if chunk.is_last:
            rows.append(end - 1)
    return torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)


def sampling_batch(step: Step, vocab_size: int, device: torch.device) -> SamplingBatch | None:
    """How `step`'s logits become tokens; None if all of them greedily."""
    rows = []
    for request in step.sampled:
        wanted = request.sampling
        key = 0 if wanted.temperature == 0.0 else noise_key(request.seed, request.output_length)
        rows.append(SamplingRow(wanted.temperature, wanted.top_p, wanted.top_k, wanted.min_p, key))
    return SamplingBatch.build(rows, vocab_size, device) if rows else None
