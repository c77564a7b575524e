"""Penalties, logit bias and a least length: what the logits of single requests are changed by.

Few requests ask for them: those that do have a slot in tables on the device, which grow on demand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .upload import upload

_FOREVER = 2**31 - 1
# A logit divided by less may be more than float32 holds.
_LOWEST_REPETITION = 1e-30


@dataclass(frozen=True)
class Penalties:
    """What one request asks for, and its text so far: [tokens] int32, `prompt` and `output`.

    `frequency` is taken off a token's logit for each time that the answer has it, `presence` if it
    has it at all; the logit of a token in prompt or answer is divided by `repetition`, or
    multiplied if it is negative. `bias` [(token, value)] is added. `stops` cannot come as one of
    the first `min_new_tokens` tokens.
    """

    prompt: np.ndarray
    output: np.ndarray
    frequency: float = 0.0
    presence: float = 0.0
    repetition: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()
    min_new_tokens: int = 0
    stops: tuple[int, ...] = ()

    @property
    def changes(self) -> list[tuple[int, float, int]]:
        """Single tokens: id, what is added to its logit, and until which place in the answer."""
        forbidden = self.stops if self.min_new_tokens > 0 else ()
        return [(token, value, _FOREVER) for token, value in self.bias] + [
            (token, -np.inf, self.min_new_tokens) for token in forbidden
        ]


class PenaltyTable:
    """One slot for each request with penalties. Slot 0 is neutral: all other requests share it.

    seen: [slots, vocab] int32: for each token, 2 · (times in the answer) + (1 if in the prompt)
    factors: [slots, 3] float32: frequency, presence, repetition
    tokens, values, until: [slots, width] int64, float32, int32: changes of single tokens' logits;
        the unused ones add 0 to token 0
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._free: list[int] = []
        self.seen = torch.zeros(1, vocab_size, dtype=torch.int32, device=device)
        self.factors = torch.tensor([[0.0, 0.0, 1.0]], device=device)
        self.tokens = torch.zeros(1, 0, dtype=torch.int64, device=device)
        self.values = torch.zeros(1, 0, dtype=torch.float32, device=device)
        self.until = torch.zeros(1, 0, dtype=torch.int32, device=device)

    def assign(self, slot: int, penalties: Penalties | None) -> int:
        """The slot for a request with `penalties`, filled; `slot` is that of its row until now."""
        if penalties is None:
            if slot:
                self._free.append(slot)
            return 0
        slot = slot or self._take()
        self._fill(slot, penalties)
        return slot

    def apply(
        self, logits: torch.Tensor, slots: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocab] float32, new, as the penalties change them.

        slots: [rows]; places: [rows], of the token to come in each answer, from 0.
        """
        if logits.is_cuda:
            from ..kernels.penalties import penalize as kernel

            changed = kernel(logits, slots, self.seen, self.factors)
        else:
            changed = penalize(logits, slots, self.seen, self.factors)
        active = places[:, None] < self.until[slots]
        return changed.scatter_add_(1, self.tokens[slots], self.values[slots].where(active, 0.0))

    def count(self, slots: torch.Tensor, tokens: torch.Tensor) -> None:
        """Take note of new tokens [rows] of the answers. What slot 0 notes changes nothing."""
        twice = torch.full_like(tokens, 2, dtype=torch.int32)
        self.seen.view(-1).index_add_(0, slots.long() * self.seen.shape[1] + tokens, twice)

    def _take(self) -> int:
        if not self._free:
            slots = len(self.seen)
            self._free += range(2 * slots - 1, slots - 1, -1)
            for name in ("seen", "factors", "tokens", "values", "until"):
                old = getattr(self, name)
                setattr(self, name, torch.cat((old, torch.zeros_like(old))))
        return self._free.pop()

    def _fill(self, slot: int, penalties: Penalties) -> None:
        vocab_size = self.seen.shape[1]  # a stop token may be one that the model does not have
        changes = [change for change in penalties.changes if change[0] < vocab_size]
        self._widen(len(changes))
        repetition = max(penalties.repetition, _LOWEST_REPETITION)
        factors = (penalties.frequency, penalties.presence, repetition)
        self.factors[slot] = self._upload(factors, torch.float32)
        padded = changes + [(0, 0.0, 0)] * (self.tokens.shape[1] - len(changes))
        tokens, values, until = zip(*padded, strict=True) if padded else ((), (), ())
        self.tokens[slot] = self._upload(tokens, torch.int64)
        self.values[slot] = self._upload(values, torch.float32)
        self.until[slot] = self._upload(until, torch.int32)
        seen = self.seen[slot].zero_()
        seen.index_fill_(0, self._upload(penalties.prompt, torch.int64), 1)
        output = self._upload(penalties.output, torch.int64)
        seen.index_add_(0, output, torch.full_like(output, 2, dtype=torch.int32))

    def _widen(self, width: int) -> None:
        """Make room for `width` changes in every slot."""
        missing = width - self.tokens.shape[1]
        if missing > 0:
            for name in ("tokens", "values", "until"):
                old = getattr(self, name)
                setattr(self, name, torch.nn.functional.pad(old, (0, missing)))

    def _upload(self, values: tuple | np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return upload(torch.as_tensor(values, dtype=dtype), self._device)


def penalize(
    logits: torch.Tensor, slots: torch.Tensor, seen: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    """A copy of `logits` with frequency, presence and repetition penalties: [rows, vocab] float32.

    logits: [rows, vocab] of any floating type; slots: [rows]; seen, factors: as in `PenaltyTable`
    """
    frequency, presence, repetition = factors[slots].split(1, dim=1)
    words = seen[slots]
    counts = words >> 1
    changed = logits.float() - frequency * counts - presence * (counts > 0)
    repeated = torch.where(changed > 0, changed / repetition, changed * repetition)
    return torch.where(words == 0, changed, repeated)
