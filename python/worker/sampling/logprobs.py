"""Log-probabilities of tokens, from logits as the model gives them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

Array = TypeVar("Array", np.ndarray, torch.Tensor)

# So much memory is taken for the log-probabilities of all tokens at some places.
_SLICE_BYTES = 128 << 20


@dataclass(frozen=True)
class Scoring:
    """Places where a step finds log-probabilities, of which there is at least one.

    rows: [places] int32, ascending: of new tokens, their indices in `StepInput.sampled`; in a
        prompt, the tokens of the step before the places
    targets: [places] int32, the prompt's tokens that stand there; none for new tokens
    top: so many of the likeliest tokens are found at each place
    token_ids: [places, width] int32, further tokens to look at; what pads a row is any token
    """

    rows: np.ndarray
    targets: np.ndarray
    top: int
    token_ids: np.ndarray


class Logprobs(NamedTuple, Generic[Array]):
    """Natural logarithms, float32, at some places: on the device, or as a step's result.

    chosen: [places], of the tokens that stand there
    top_tokens, top: [places, top], the likeliest first; equal ones by their ids
    wanted: [places, width], of `Scoring.token_ids`
    """

    chosen: Array
    top_tokens: Array
    top: Array
    wanted: Array


def slice_rows(vocab_size: int) -> int:
    """The largest number of places to look at in one go."""
    return max(1, _SLICE_BYTES // (4 * vocab_size))


def score(
    logits: Iterable[torch.Tensor], tokens: torch.Tensor, token_ids: torch.Tensor, top: int
) -> Logprobs[torch.Tensor]:
    """Log-probabilities at all places of `logits`, which come in slices: memory is for one of them.

    logits: [n, vocab] each, of any floating type, at most `slice_rows` rows; not changed
    tokens: [places], of any integer type; token_ids: [places, width], likewise
    """
    parts, end = [], 0
    for part in logits:
        places = slice(end, end := end + len(part))
        values = F.log_softmax(part, dim=-1, dtype=torch.float32)
        chosen = values.gather(1, tokens[places, None].long())[:, 0]
        wanted = values.gather(1, token_ids[places].long())
        parts.append(Logprobs(chosen, *_likeliest(part, values, top), wanted))
    return Logprobs(*map(torch.cat, zip(*parts, strict=True)))


def _likeliest(
    logits: torch.Tensor, values: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and `values` of the highest logits, all [rows, vocab]: [rows, count] each.

    Logits may have a smaller dtype, in which the search is faster.
    """
    tokens = logits.topk(min(count, logits.shape[1]), dim=-1, sorted=False).indices
    tokens = tokens.sort(dim=-1).values
    best = values.gather(1, tokens).sort(dim=-1, descending=True, stable=True)
    return tokens.gather(1, best.indices), best.values
