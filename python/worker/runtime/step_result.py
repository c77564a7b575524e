"""What a step computed, and its way to the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from ..sampling.logprobs import Logprobs
from ..sampling.processing import Processing


@dataclass(frozen=True)
class StepResult:
    """tokens: one for each of `StepInput.sampled`
    logprobs, prompt_logprobs: at the places of `StepInput.scoring` and `prompt_scoring`
    hidden_states: [n, hidden] float32, of `StepInput.state_rows`, if there are any
    vectors: [n, size] float32, of `StepInput.prompts_ended`, if the model makes vectors
    failures: of which of `tokens` none could be chosen, as a logit processor failed, and why
    """

    tokens: list[int]
    logprobs: Logprobs[np.ndarray] | None = None
    prompt_logprobs: Logprobs[np.ndarray] | None = None
    hidden_states: np.ndarray | None = None
    vectors: np.ndarray | None = None
    failures: Mapping[int, str] = field(default_factory=dict)


class PendingResult(Protocol):
    """The result of a step that was launched."""

    def wait(self) -> StepResult:
        """Block until the step is computed."""
        ...


class DeviceResult:
    """A result on its way to the host: copied behind what was launched so far."""

    def __init__(
        self,
        tokens: torch.Tensor,
        logprobs: Logprobs[torch.Tensor] | None = None,
        prompt_logprobs: Logprobs[torch.Tensor] | None = None,
        hidden_states: torch.Tensor | None = None,
        vectors: torch.Tensor | None = None,
        processing: Processing | None = None,
    ) -> None:
        self._processing = processing
        self._tokens = _to_host(tokens if processing is None else processing.mark(tokens))
        self._logprobs = logprobs and Logprobs(*map(_to_host, logprobs))
        self._prompt_logprobs = prompt_logprobs and Logprobs(*map(_to_host, prompt_logprobs))
        self._hidden_states = None if hidden_states is None else _to_host(hidden_states)
        self._vectors = None if vectors is None else _to_host(vectors)
        self._event = torch.cuda.Event() if tokens.is_cuda else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> StepResult:
        if self._event is not None:
            self._event.synchronize()
        tokens = self._tokens.tolist()
        failures = {} if self._processing is None else self._processing.failed(tokens)
        return StepResult(
            tokens,
            self._logprobs,
            self._prompt_logprobs,
            self._hidden_states,
            self._vectors,
            failures,
        )


def _to_host(tensor: torch.Tensor) -> np.ndarray:
    """On a CPU its own memory; of a GPU's a pinned copy, whose numbers come a little later."""
    if tensor.is_cuda:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        tensor = pinned.copy_(tensor, non_blocking=True)
    return tensor.numpy()
