"""Which rows of a step go through custom logit processors, and what comes of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .custom_logit_processor import LogitProcessor, words
from .upload import upload

# Stands for the token of a row in which a processor left none; only the host gets to see it.
NO_TOKEN = -1
# What a processor forbids may be this low instead of -inf, and what it forces as high: a GPU would
# look for ever for a token whose logit, divided by the temperature, is no finite number.
_BEYOND_ALL = 1e30


@dataclass(frozen=True)
class RowProcessor:
    """What one request sent: its processor, and its `custom_params`, which are its own object."""

    processor: LogitProcessor
    params: dict[str, Any] | None


class Processing:
    """The calls of processors in one step: one for each distinct processor.

    row_processors: for each row of the step's logits, or None where it has none

    A row that a processor fails is drawn from as it was, so that nothing else notices; `failed`
    tells of it.
    """

    def __init__(self, row_processors: Sequence[RowProcessor | None], device: torch.device) -> None:
        self._failures: dict[int, str] = {}
        self._device = device
        self._row_processors = row_processors
        self._rows_left: list[tuple[torch.Tensor, torch.Tensor]] = []  # rows, and if tokens are

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocab] float32 after the processors; those given may be changed.

        logits: [rows, vocab] of any floating type
        """
        logits = logits.float()
        rows_of: dict[int, list[int]] = {}
        for row, each in enumerate(self._row_processors):
            if each is not None:
                rows_of.setdefault(id(each.processor), []).append(row)
        for rows in rows_of.values():
            self._process(logits, rows)
        return logits

    def mark(self, tokens: torch.Tensor) -> torch.Tensor:
        """The drawn `tokens` [rows] for the host: NO_TOKEN where a processor left none."""
        marked = tokens.clone()
        for rows, has_tokens in self._rows_left:
            marked[rows] = marked[rows].masked_fill(~has_tokens, NO_TOKEN)
        return marked

    def failed(self, marked: Sequence[int]) -> dict[int, str]:
        """Which rows processors failed, and why; `marked` are their tokens on the host."""
        empty = [row for row, token in enumerate(marked) if token == NO_TOKEN]
        message = "The custom logit processor left no token to choose"
        return self._failures | dict.fromkeys(empty, message)

    def _process(self, logits: torch.Tensor, rows: list[int]) -> None:
        """Rows of one processor. If it fails with several, it is asked again for each alone, so
        that one request's parameters are not another's failure; so it is when it keeps something
        with the parameters that cannot be copied.
        """
        given = [each for row in rows if (each := self._row_processors[row]) is not None]
        params = [each.params for each in given]
        before: list[dict[str, Any] | None] = []
        index = upload(torch.tensor(rows), self._device)
        try:
            if len(rows) > 1:
                before = copy.deepcopy(params)
            changed = _call(given[0].processor, logits[index], params)
        except Exception as error:  # whatever a stranger's code raises
            if len(rows) == 1:
                self._failures[rows[0]] = f"The custom logit processor failed: {words(error)}"
                return
            for each, old in zip(given, before, strict=False):
                if each.params is not None and old is not None:
                    each.params.clear()
                    each.params.update(old)
            for row in rows:
                self._process(logits, [row])
            return
        changed = changed.nan_to_num(-torch.inf, posinf=_BEYOND_ALL, neginf=-torch.inf)
        has_tokens = changed.amax(dim=-1) > -_BEYOND_ALL
        logits[index] = changed.clamp(max=_BEYOND_ALL).where(has_tokens[:, None], 0.0)
        self._rows_left.append((index, has_tokens))


def _call(
    processor: LogitProcessor, logits: torch.Tensor, params: list[dict[str, Any] | None]
) -> torch.Tensor:
    shape = logits.shape
    changed = processor(logits, params)
    if not isinstance(changed, torch.Tensor):
        raise TypeError(f"it returned {type(changed).__name__} instead of logits")
    if changed.shape != shape:
        raise ValueError(f"it returned logits of shape {[*changed.shape]} for {[*shape]}")
    return changed.to(logits.device, torch.float32)
