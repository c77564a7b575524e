"""What the scheduler hands to the runtime for one step: host arrays, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..sampling.table import SamplingRow


@dataclass(frozen=True)
class StepInput:
    """One step, as int32 arrays on the host.

    rows, seq_lens, query_lens: [sequences], the decodes first: row of the page table, tokens of the
        sequence including this step's, tokens of it in this step (1 for a decode)
    prompt_ids: [tokens of the chunks]; the decodes' tokens are those that the device sampled last
        for their rows
    out_slots: [tokens], where the keys and values of this step go
    shared_lens: [sequences], see `ForwardBatch`
    sampled: [sampled], ascending indices of the sequences that get a token
    sampling: how tokens are chosen for those of `sampled` that get their first one in this row
    table_indices, table_slots: [n], entries of the flattened page table that changed since the last
        step, without the decodes' own
    """

    rows: np.ndarray
    seq_lens: np.ndarray
    query_lens: np.ndarray
    num_decodes: int
    prompt_ids: np.ndarray
    out_slots: np.ndarray
    sampled: np.ndarray
    sampling: Sequence[SamplingRow] = ()
    shared_lens: np.ndarray | None = None
    table_indices: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    table_slots: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    @property
    def is_decode(self) -> bool:
        """Whether every sequence decodes."""
        return self.num_decodes == len(self.rows)


class PendingTokens(Protocol):
    """The tokens of a step that was launched."""

    def wait(self) -> list[int]:
        """Block until the step is computed; one token for each of `StepInput.sampled`."""
        ...
