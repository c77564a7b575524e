"""Sampling parameters of the running requests, on the device, by the page table's rows.

A row is written once, when its request's prompt is computed; afterwards a step only names rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import torch

from .penalties import Penalties, PenaltyTable
from .processing import Processing, RowProcessor
from .upload import upload

# Cooler than this is greedy: logits divided by it would overflow. What is hotter than the highest
# is as random, and may be more than float32 holds, where a forbidden token's logit turns to NaN.
_LOWEST_TEMPERATURE = 1e-6
_HIGHEST_TEMPERATURE = 1e6
# The likeliest token must pass its filters, or a GPU looks for one that does for ever: as float32,
# a smaller top-p would be 0, and above this min-p a GPU's logarithm need not be negative.
_LOWEST_TOP_P = 1e-30
_HIGHEST_MIN_P = 1 - 1e-6

# One row; the device sees it as int32 words.
_ROW = np.dtype(
    [
        ("seed", "<i8"),
        ("temperature", "<f4"),
        ("top_p", "<f4"),
        ("min_p", "<f4"),
        ("top_k", "<i4"),
        ("prompt_len", "<i4"),
        ("penalty_slot", "<i4"),
    ]
)
_WORDS = _ROW.itemsize // 4


class Sampling(IntFlag):
    """What some row of a batch asks for."""

    GREEDY = 1
    RANDOM = 2
    TOP_P = 4
    TOP_K = 8
    MIN_P = 16
    PENALTIES = 32
    PROCESSOR = 64

    FILTERS = TOP_P | TOP_K | MIN_P


@dataclass(frozen=True)
class SamplingRow:
    """How the tokens of one request are chosen. Temperature 0 is greedy, top_k -1 is no limit."""

    row: int
    prompt_len: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    penalties: Penalties | None = None
    processor: RowProcessor | None = None

    @property
    def flags(self) -> Sampling:
        """What this row asks for."""
        random = self.temperature >= _LOWEST_TEMPERATURE
        asked = {
            Sampling.GREEDY: not random,
            Sampling.RANDOM: random,
            Sampling.TOP_P: random and self.top_p < 1.0,
            Sampling.TOP_K: random and self.top_k > 0,
            Sampling.MIN_P: random and self.min_p > 0.0,
            Sampling.PENALTIES: self.penalties is not None,
            Sampling.PROCESSOR: self.processor is not None,
        }
        return Sampling(sum(flag for flag, wanted in asked.items() if wanted))


class SamplingTable:
    """Columns [max_rows] on the device; greedy rows have temperature 0 and no filters.

    seeds: int64; temperatures, top_ps, min_ps: float32
    top_ks: int32, the vocabulary's size where there is no limit
    prompt_lens: int32; a sequence of n tokens samples the token at place n - prompt_len
    penalty_slots: int32, in `penalties`; 0 where there are none
    """

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self.penalties = PenaltyTable(vocab_size, device)
        self._vocab_size = vocab_size
        unused = np.full(max_rows, np.array((0, 0.0, 1.0, 0.0, vocab_size, 0, 0), _ROW))
        self._words = upload(torch.from_numpy(unused.view(np.int32).reshape(-1, _WORDS)), device)
        self._flags = np.full(max_rows, Sampling.GREEDY, dtype=np.uint8)
        self._slots = np.zeros(max_rows, dtype=np.int32)
        self._processors: dict[int, RowProcessor] = {}
        self.seeds = self._words.view(torch.int64)[:, 0]
        floats = self._words.view(torch.float32)
        self.temperatures, self.top_ps, self.min_ps = floats[:, 2], floats[:, 3], floats[:, 4]
        self.top_ks, self.prompt_lens = self._words[:, 5], self._words[:, 6]
        self.penalty_slots = self._words[:, 7]

    def set_rows(self, rows: Sequence[SamplingRow]) -> None:
        """Write the rows of new requests, by one small copy that the host does not wait for."""
        words = np.zeros((len(rows), _WORDS + 1), dtype=np.int32)
        for each, values in zip(rows, words, strict=True):
            flags = each.flags
            self._flags[each.row] = flags
            self._slots[each.row] = self.penalties.assign(self._slots[each.row], each.penalties)
            self._processors.pop(each.row, None)
            if each.processor is not None:
                self._processors[each.row] = each.processor
            random = Sampling.RANDOM in flags
            top_k = each.top_k if Sampling.TOP_K in flags else self._vocab_size
            values[0] = each.row
            values[1:].view(_ROW)[0] = (
                each.seed,
                min(each.temperature, _HIGHEST_TEMPERATURE) if random else 0.0,
                max(each.top_p, _LOWEST_TOP_P) if random else 1.0,
                min(each.min_p, _HIGHEST_MIN_P) if random else 0.0,
                min(top_k, self._vocab_size),
                each.prompt_len,
                self._slots[each.row],
            )
        on_device = upload(torch.from_numpy(words), self._words.device)
        self._words.index_copy_(0, on_device[:, 0].long(), on_device[:, 1:])

    def flags(self, rows: np.ndarray) -> Sampling:
        """What any of `rows` [n] asks for, by the host's own notes."""
        return Sampling(int(np.bitwise_or.reduce(self._flags[rows])))

    def processing(self, rows: np.ndarray) -> Processing | None:
        """What custom logit processors are to do in a step of `rows` [n]; None if it is nothing."""
        if Sampling.PROCESSOR not in self.flags(rows):
            return None
        return Processing([self._processors.get(row) for row in rows.tolist()], self._words.device)
