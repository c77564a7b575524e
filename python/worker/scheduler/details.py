"""What a request is told beside its tokens: log-probabilities and hidden states."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..messages import GenerateRequest, LogprobOptions, TokenLogprobs
from ..runtime.step_result import StepResult
from ..sampling.logprobs import Logprobs, Scoring

_NO_ROWS = np.empty(0, dtype=np.int32)


class Wish(NamedTuple):
    """What a step finds out for one of its requests. Rows are places in the request's text.

    sequence: its index in the step; first_row: the first one that the step computes of it
    scored: the rows behind which a token of the prompt stands whose log-probability is wanted
    scores_new_token: whether that of the token drawn behind the last row is wanted
    states: the rows whose hidden states are wanted
    """

    details: Details
    sequence: int
    first_row: int
    scored: range
    scores_new_token: bool
    states: range


class Found(NamedTuple):
    """The last fields of a `TokenChunk`."""

    logprobs: TokenLogprobs | None = None
    prompt_logprobs: TokenLogprobs | None = None
    hidden_states: bytes | None = None


class Details:
    """What one request is told, from the step that finds it until it is sent.

    What a step was launched for counts as found: when the request is retracted, and its text
    computed again, nothing is found twice.
    """

    def __init__(
        self, prompt: np.ndarray, options: LogprobOptions | None, hidden_states: bool
    ) -> None:
        """prompt: [tokens] int32"""
        self.prompt, self.options = prompt, options
        self._prompt_end = len(prompt) - 1  # behind its last row stands a new token
        start = None if options is None else options.prompt_start
        first_place = len(prompt) if start is None else max(start, 1)
        self._next_scored = min(first_place - 1, self._prompt_end)
        self._wants_states = hidden_states
        self._next_state = 0
        self._answer = _nothing()
        self._prompt_logprobs = None if start is None else _nothing()
        self._states: list[bytes] = []

    @classmethod
    def of(cls, message: GenerateRequest, prompt: np.ndarray) -> Details | None:
        """What `message` asks for; None if that is nothing, as mostly."""
        if message.logprobs is None and not message.return_hidden_states:
            return None
        return cls(prompt, message.logprobs, message.return_hidden_states)

    @property
    def next_row(self) -> int:
        """The first row that has to be computed for what was not found yet."""
        scored = self._next_scored if self._next_scored < self._prompt_end else sys.maxsize
        return min(scored, self._next_state) if self._wants_states else scored

    def wish(self, sequence: int, start: int, end: int, *, gives_token: bool) -> Wish:
        """What a step that computes rows [start, end) is to find out."""
        assert start <= self.next_row, "what is wanted was left to the cache"
        return Wish(
            self,
            sequence,
            start,
            scored=range(self._next_scored, min(end, self._prompt_end)),
            scores_new_token=gives_token and self.options is not None,
            states=range(self._next_state, end) if self._wants_states else range(0),
        )

    def expect(self, wish: Wish) -> None:
        """A step that fulfils `wish` was launched."""
        self._next_scored = max(self._next_scored, wish.scored.stop)
        self._next_state = max(self._next_state, wish.states.stop)

    def add_prompt(self, found: Logprobs[np.ndarray], places: slice) -> None:
        """Log-probabilities of the prompt's next tokens are there."""
        assert self.options is not None
        assert self._prompt_logprobs is not None
        _append(self._prompt_logprobs, found, places, self.options)

    def add_token(self, found: Logprobs[np.ndarray], place: int) -> None:
        """Log-probabilities of the next new token are there."""
        assert self.options is not None
        _append(self._answer, found, slice(place, place + 1), self.options)

    def add_states(self, rows: np.ndarray) -> None:
        """The next hidden states are there: [rows, hidden] float32."""
        self._states.append(rows.tobytes())

    def take(self) -> Found:
        """What was found since the last chunk, to be sent now."""
        answer, self._answer = self._answer, _nothing()
        prompt, self._prompt_logprobs = self._prompt_logprobs, None
        states, self._states = self._states, []
        return Found(
            answer if self.options is not None else None,
            prompt,
            b"".join(states) if self._wants_states else None,
        )


def _nothing() -> TokenLogprobs:
    return TokenLogprobs(chosen=[], top=[], wanted=[])


def _append(
    known: TokenLogprobs, found: Logprobs[np.ndarray], places: slice, options: LogprobOptions
) -> None:
    """Some `places` of a step, where others may have asked for more, become part of `known`."""
    known.chosen.extend(found.chosen[places].tolist())
    if options.top:
        tokens = found.top_tokens[places, : options.top]
        values = found.top[places, : options.top].ravel().tolist()
        pairs = list(zip(tokens.ravel().tolist(), values, strict=True))
        width = tokens.shape[1]
        known.top.extend(pairs[i : i + width] for i in range(0, len(pairs), width))
    if options.token_ids:
        known.wanted.extend(found.wanted[places, : len(options.token_ids)].tolist())


# ===== all wishes of a step =====


def new_token_scoring(wishes: Sequence[Wish], sampled: np.ndarray) -> Scoring | None:
    """Where a step that draws tokens for the sequences `sampled` [n] scores them."""
    asking = [wish for wish in wishes if wish.scores_new_token]
    if not asking:
        return None
    rows = np.searchsorted(sampled, [wish.sequence for wish in asking])
    return _scoring(asking, [1] * len(asking), rows, _NO_ROWS)


def prompt_scoring(wishes: Sequence[Wish], starts: np.ndarray) -> Scoring | None:
    """Where a step scores prompts; `starts` [sequences + 1] are its sequences' first tokens."""
    asking = [wish for wish in wishes if wish.scored]
    if not asking:
        return None
    rows = [_tokens_of_step(wish, wish.scored, starts) for wish in asking]
    targets = [wish.details.prompt[wish.scored.start + 1 : wish.scored.stop + 1] for wish in asking]
    counts = [len(wish.scored) for wish in asking]
    return _scoring(asking, counts, concatenated(rows), concatenated(targets))


def state_rows(wishes: Sequence[Wish], starts: np.ndarray) -> np.ndarray:
    """The tokens of a step whose hidden states are wanted: [n] int32."""
    return concatenated([_tokens_of_step(wish, wish.states, starts) for wish in wishes])


def hand_out(wishes: Sequence[Wish], result: StepResult) -> None:
    """Give everyone his part of what a step found."""
    places = new_tokens = states = 0
    for wish in wishes:
        if wish.scored:
            assert result.prompt_logprobs is not None
            end = places + len(wish.scored)
            wish.details.add_prompt(result.prompt_logprobs, slice(places, end))
            places = end
        if wish.scores_new_token:
            assert result.logprobs is not None
            wish.details.add_token(result.logprobs, new_tokens)
            new_tokens += 1
        if wish.states:
            assert result.hidden_states is not None
            end = states + len(wish.states)
            wish.details.add_states(result.hidden_states[states:end])
            states = end


def concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The int32 arrays `parts`, which may be none, as one."""
    return np.concatenate(parts) if parts else _NO_ROWS


def _tokens_of_step(wish: Wish, rows: range, starts: np.ndarray) -> np.ndarray:
    first = int(starts[wish.sequence]) - wish.first_row
    return np.arange(first + rows.start, first + rows.stop, dtype=np.int32)


def _scoring(
    asking: Sequence[Wish], counts: Sequence[int], rows: np.ndarray, targets: np.ndarray
) -> Scoring:
    """`counts` places for each of those who ask."""
    options = [wish.details.options or LogprobOptions() for wish in asking]
    width = max(len(option.token_ids) for option in options)
    token_ids = np.zeros((len(options), width), dtype=np.int32)
    for row, option in zip(token_ids, options, strict=True):
        row[: len(option.token_ids)] = option.token_ids
    return Scoring(
        rows.astype(np.int32),
        targets,
        top=max(option.top for option in options),
        token_ids=np.repeat(token_ids, counts, axis=0),
    )
