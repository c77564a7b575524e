"""What the native API asks and says of an answer, over HTTP and offline, as in SGLang 0.4.3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..messages import LogprobOptions, TokenLogprobs
from .text_output import TextOutput
from .token_bytes import TokenBytes

# What stands for minus infinity, which JSON cannot say; OpenAI's figure.
LEAST_LOGPROB = -9999.0
MOST_TOP_LOGPROBS = 128

_Entry = tuple[float | None, int, str | None]


class NativeFieldError(ValueError):
    """A value that does not fit the prompts; `field` says whose it is."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def one_each(name: str, given: Any, default: Any, count: int) -> list[Any]:
    """`given` for each of `count` prompts: a list is one each already.

    Raises NativeFieldError if a list has another length.
    """
    if isinstance(given, list):
        if len(given) != count:
            raise NativeFieldError(name, f"{name} has {len(given)} entries for {count} prompts")
        return given
    return [default if given is None else given] * count


class LogprobWish(NamedTuple):
    """`logprob_start_len` and `top_logprobs_num` of a prompt."""

    start_len: int
    top: int

    @classmethod
    def each(
        cls, return_logprob: Any, logprob_start_len: Any, top_logprobs_num: Any, count: int
    ) -> list[LogprobWish | None]:
        """Of each of `count` prompts. Raises NativeFieldError as `one_each` does."""
        wanted = one_each("return_logprob", return_logprob, False, count)
        starts = one_each("logprob_start_len", logprob_start_len, -1, count)
        tops = one_each("top_logprobs_num", top_logprobs_num, 0, count)
        wishes = map(cls, starts, tops)
        return [wish if wants else None for wants, wish in zip(wanted, wishes, strict=True)]

    def options(self, prompt_tokens: int) -> LogprobOptions:
        """Of the prompt, the tokens after place `start_len`; from 0 on, the first too, which has no
        log-probability; with -1, none. Raises NativeFieldError if the prompt has no such place, or
        `top` is no number from 0 to MOST_TOP_LOGPROBS.
        """
        if not -1 <= self.start_len < prompt_tokens:
            raise NativeFieldError(
                "logprob_start_len",
                f"logprob_start_len: the prompt has {prompt_tokens} tokens; it must be one of "
                f"their places, from 0 on, or -1 for none, not {self.start_len}",
            )
        if not 0 <= self.top <= MOST_TOP_LOGPROBS:
            raise NativeFieldError(
                "top_logprobs_num",
                f"top_logprobs_num: must lie between 0 and {MOST_TOP_LOGPROBS}, not {self.top}",
            )
        start = None
        if self.start_len == 0:
            start = 0
        elif 0 < self.start_len < prompt_tokens - 1:
            start = self.start_len + 1
        return LogprobOptions(prompt_start=start, top=self.top)


def finite(logprob: float) -> float:
    """Itself, or LEAST_LOGPROB for what is less than that, or no number."""
    return max(LEAST_LOGPROB, logprob)  # in this order: a comparison with NaN is false


class NativeAnswer:
    """What the native API says of one answer while it grows.

    With `token_bytes`, log-probabilities have the text of their tokens. Those of a token are
    written once, however many events of a stream show them.
    """

    def __init__(self, output: TextOutput, token_bytes: TokenBytes | None = None) -> None:
        self.output = output
        self._token_bytes = token_bytes
        self._of_prompt: tuple[list[_Entry], list[list[_Entry] | None]] | None = None
        self._chosen: list[_Entry] = []
        self._top: list[list[_Entry]] = []

    def meta_info(self) -> dict[str, Any]:
        """Counts, the reason of the end, and what else was asked for; seconds when it has ended.

        `hidden_states` come with the end: one array [prompt tokens, hidden size], then one [hidden
        size] for each token of the answer but the first.
        """
        output = self.output
        known = {
            "id": output.request.rid,
            "prompt_tokens": output.prompt_tokens,
            "completion_tokens": output.completion_tokens,
            "cached_tokens": output.cached_tokens,
            "finish_reason": _finish_reason(output),
        }
        if output.request.logprobs is not None:
            known |= self._logprobs(output.request.logprobs)
        if output.finish is not None:
            if output.request.return_hidden_states:
                known["hidden_states"] = _hidden_states(output)
            known["e2e_latency"] = output.seconds
        return known

    def _logprobs(self, options: LogprobOptions) -> dict[str, Any]:
        """Lists of [logprob, token id, text]: one of prompt and answer, or one for each place."""
        output = self.output
        start = len(self._chosen)
        chosen = zip(output.output_ids[start:], output.logprobs.chosen[start:], strict=True)
        self._chosen += self._entries(chosen)
        self._top += map(self._entries, output.logprobs.top[start:])
        if self._of_prompt is None and output.prompt_logprobs is not None:
            self._of_prompt = self._write_prompt(options, output.prompt_logprobs)
        prompt_chosen, prompt_top = self._of_prompt or ([], [])
        known: dict[str, Any] = {
            "input_token_logprobs": prompt_chosen,
            "output_token_logprobs": self._chosen.copy(),
        }
        if options.top:
            known["input_top_logprobs"] = prompt_top
            known["output_top_logprobs"] = self._top.copy()
        return known

    def _write_prompt(
        self, options: LogprobOptions, logprobs: TokenLogprobs
    ) -> tuple[list[_Entry], list[list[_Entry] | None]]:
        """A first token of all has no log-probability: null stands there."""
        ids = self.output.request.input_ids[options.prompt_start :]
        chosen: list[_Entry] = []
        top: list[list[_Entry] | None] = []
        if options.prompt_start == 0:
            first = ids.pop(0)
            chosen.append((None, first, self._text(first)))
            top.append(None)
        chosen += self._entries(zip(ids, logprobs.chosen, strict=True))
        top += map(self._entries, logprobs.top)
        return chosen, top

    def _entries(self, places: Iterable[tuple[int, float]]) -> list[_Entry]:
        return [(finite(value), token_id, self._text(token_id)) for token_id, value in places]

    def _text(self, token_id: int) -> str | None:
        if self._token_bytes is None:
            return None
        return self._token_bytes.of(token_id, skip_special_tokens=False).decode("utf-8", "replace")


def _finish_reason(output: TextOutput) -> dict[str, Any] | None:
    """With what was matched, or the length."""
    if output.finish is None:
        return None
    if output.finish.kind == "length":
        return {"type": "length", "length": output.completion_tokens}
    if output.finish.kind == "abort":
        return {"type": "abort", "message": output.finish.message}
    return {"type": "stop", "matched": output.stops.matched or output.finish.matched}


def _hidden_states(output: TextOutput) -> list[np.ndarray]:
    if not output.hidden_states:
        return []
    rows = np.frombuffer(output.hidden_states, np.float32).reshape(output.hidden_rows, -1)
    return [rows[: output.prompt_tokens], *rows[output.prompt_tokens :]]
