"""What the scheduler hands to the runtime for one step: host arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..attention.batch import GivenEmbeddings
from ..sampling.logprobs import Scoring
from ..sampling.masks import TokenMasks
from ..sampling.table import SamplingRow


def _no_rows() -> np.ndarray:
    return np.empty(0, dtype=np.int32)


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
    prompts_ended: [n], ascending indices of the others whose prompt ends in this step
    sampling: how tokens are chosen for those of `sampled` that get their first one in this row
    given: embeddings in place of some of the chunks' tokens
    scoring, prompt_scoring: where log-probabilities of new tokens and of the prompts' are wanted
    token_type_ids: [tokens of the chunks], or none if all are 0
    state_rows: [n], ascending, the tokens of the step whose hidden states are wanted on the host
    masks: what some of `sampled` must not say
    forced: the chunks are of sequences that decode: what grammars forced upon them, or their last
        token once more, for another draw
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
    prompts_ended: np.ndarray = field(default_factory=_no_rows)
    sampling: Sequence[SamplingRow] = ()
    shared_lens: np.ndarray | None = None
    given: GivenEmbeddings[np.ndarray] | None = None
    scoring: Scoring | None = None
    prompt_scoring: Scoring | None = None
    token_type_ids: np.ndarray = field(default_factory=_no_rows)
    state_rows: np.ndarray = field(default_factory=_no_rows)
    masks: TokenMasks | None = None
    forced: bool = False
    table_indices: np.ndarray = field(default_factory=_no_rows)
    table_slots: np.ndarray = field(default_factory=_no_rows)

    @property
    def is_decode(self) -> bool:
        """Whether every sequence decodes."""
        return self.num_decodes == len(self.rows)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each sequence starts in the step, and where the last one ends: [sequences + 1]."""
        return query_starts(self.query_lens)

    @cached_property
    def positions(self) -> np.ndarray:
        """Of every token of the step in its sequence: [tokens] int32."""
        first = self.seq_lens - self.query_lens - self.starts[:-1]
        return np.arange(self.starts[-1], dtype=np.int32) + np.repeat(first, self.query_lens)

    def token_by_token(self) -> StepInput:
        """The same as decodes alone: a sequence for each token, which ends with it. The last ones
        do not have the ids that were sampled, but `prompt_ids`. What is said of tokens by their
        places stays true, `prompts_ended` does not.

        Keys and values of all tokens of a layer are written before its attention is computed.
        """
        if self.is_decode:
            return self
        shared_lens = self.shared_lens
        if shared_lens is not None:
            # Of a chunk, each token but the first shares all that was there before the step.
            before = np.repeat(self.seq_lens - self.query_lens, self.query_lens)
            before[self.starts[:-1]] = shared_lens
            shared_lens = before
        tokens = len(self.out_slots)
        return replace(
            self,
            rows=np.repeat(self.rows, self.query_lens),
            seq_lens=self.positions + 1,
            query_lens=np.ones(tokens, dtype=np.int32),
            num_decodes=tokens,
            sampled=self.last_tokens.astype(np.int32),
            shared_lens=shared_lens,
        )

    @cached_property
    def last_tokens(self) -> np.ndarray:
        """The tokens of the step behind which a token is drawn, ascending: [sampled]."""
        return self.starts[1:][self.sampled] - 1

    @cached_property
    def wanted_rows(self) -> np.ndarray:
        """The tokens whose hidden states are needed for anything, ascending: [n]."""
        if self.prompt_scoring is None and not len(self.state_rows):
            return self.last_tokens
        scored = _no_rows() if self.prompt_scoring is None else self.prompt_scoring.rows
        return np.unique(np.concatenate((self.last_tokens, scored, self.state_rows)))


def query_starts(query_lens: np.ndarray) -> np.ndarray:
    """Where sequences of these lengths start that lie one behind the other, and where the last one
    ends: [sequences + 1] int32.
    """
    starts = np.zeros(len(query_lens) + 1, dtype=np.int32)
    np.cumsum(query_lens, out=starts[1:])
    return starts
