"""From the engine's tokens to an answer: text, stop strings, log-probabilities, counts."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from ..messages import (
    OTHERWISE,
    FinishReason,
    GenerateRequest,
    InputEmbeds,
    LogprobOptions,
    SamplingParams,
    TokenChunk,
    TokenLogprobs,
)
from .detokenizer import IncrementalDetokenizer
from .stop_strings import StopWatcher
from .token_bytes import TokenBytes


class GenerationAborted(Exception):
    """The engine gave a request up. `status` is an HTTP one: below 500 the request is at fault,
    with the field `param`, if that is known.
    """

    def __init__(self, reason: FinishReason, request: TextRequest) -> None:
        message = reason.message or "The engine gave the request up"
        self.status = reason.status
        self.param = request.grammar_field if reason.of_grammar else None
        if request.otherwise_field is not None and OTHERWISE in message:
            self.param = request.otherwise_field
            message = f"{self.param}: {message.partition(OTHERWISE)[2]}"
        super().__init__(message)


@dataclass(frozen=True)
class TextRequest:
    """One prompt and all that its answer depends on, the text side included.

    One that is not `measured` is no part of the metrics. `sample` is its place among the requests
    for several answers to the same prompt. `input_ids` of a prompt that is given as
    `input_embeds` are placeholders. `shown_tokens` are in the text although they are special.
    `grammar_field` is what a grammar came from, `otherwise_field` what its `otherwise` did.
    """

    rid: str
    input_ids: list[int]
    sampling: SamplingParams
    stop_strings: tuple[str, ...] = ()
    skip_special_tokens: bool = True
    shown_tokens: frozenset[int] = frozenset()
    measured: bool = True
    logprobs: LogprobOptions | None = None
    return_hidden_states: bool = False
    sample: int = 0
    custom_logit_processor: str | None = None
    input_embeds: InputEmbeds | None = None
    grammar_field: str | None = None
    otherwise_field: str | None = None

    def samples(self, count: int) -> list[TextRequest]:
        """Requests for `count` answers to the same prompt; for one, this request itself.

        Where a seed is given, sample i is drawn with seed + i: the first is the answer of one
        alone. Several have the rids "RID-0", "RID-1" and so on.
        """
        if count == 1:
            return [self]
        return [
            replace(
                self,
                rid=f"{self.rid}-{index}",
                sampling=_reseeded(self.sampling, index),
                sample=index,
            )
            for index in range(count)
        ]

    def for_engine(self, stream_interval: int) -> GenerateRequest:
        """With 0 the engine sends all but the first token at the end, unless a stop string must be
        watched for.

        The prompt's log-probabilities are then asked for once, by the first of several samples. In
        a stream, where the others may be ahead of it, each asks for itself.
        """
        logprobs = self.logprobs
        if stream_interval == 0 and self.sample > 0 and logprobs is not None:
            logprobs = msgspec.structs.replace(logprobs, prompt_start=None)
        if stream_interval == 0 and self.stop_strings:
            stream_interval = 1
        return GenerateRequest(
            self.rid,
            self.input_ids,
            self.sampling,
            stream_interval,
            logprobs=logprobs,
            return_hidden_states=self.return_hidden_states,
            custom_logit_processor=self.custom_logit_processor,
            input_embeds=self.input_embeds,
        )


def _reseeded(sampling: SamplingParams, step: int) -> SamplingParams:
    """With the seed that comes `step` after the given one, around the end of int64."""
    if sampling.seed is None:
        return sampling
    seed = (sampling.seed + step + 2**63) % 2**64 - 2**63
    return msgspec.structs.replace(sampling, seed=seed)


@dataclass
class TextOutput:
    """The answer to one TextRequest as far as it is known.

    `output_ids` are its tokens up to the one that ended it; `text_offsets` are where in the text
    each of them begins, in characters, and `logprobs` have the same places. `fresh` are the places
    of the tokens that the last piece of text began: each token is in one of them, one without text
    in the next that comes, and what is left in the last. `hidden_states` are float32 rows, one for
    each token of the prompt, then one for each token but the first. Without a `detokenizer` there
    is no text. Times are seconds of a monotonic clock.
    """

    request: TextRequest
    index: int
    detokenizer: IncrementalDetokenizer | None
    stops: StopWatcher
    first_sample: TextOutput | None = None
    finish: FinishReason | None = None
    cached_tokens: int = 0
    output_ids: list[int] = field(default_factory=list)
    text_offsets: list[int] = field(default_factory=list)
    logprobs: TokenLogprobs = field(default_factory=lambda: TokenLogprobs([], [], []))
    fresh: range = range(0)
    text_length: int = 0
    hidden_states: bytearray = field(default_factory=bytearray)
    started: float = field(default_factory=time.monotonic)
    _prompt_logprobs: TokenLogprobs | None = None
    _pieces: list[str] = field(default_factory=list)
    _decoded_characters: int = 0
    _hidden_row_bytes: int = 0

    @classmethod
    def begin(
        cls, requests: Sequence[TextRequest], token_bytes: TokenBytes | None
    ) -> list[TextOutput]:
        """Of all requests of a call, samples of a prompt in a row; None for `token_bytes` makes no
        text.
        """
        outputs: list[TextOutput] = []
        for index, request in enumerate(requests):
            detokenizer = None
            if token_bytes is not None:
                detokenizer = IncrementalDetokenizer(
                    token_bytes, request.skip_special_tokens, request.shown_tokens
                )
            first_sample = outputs[index - request.sample] if request.sample else None
            stops = StopWatcher(request.stop_strings)
            outputs.append(cls(request, index, detokenizer, stops, first_sample))
        return outputs

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.input_ids)

    @property
    def completion_tokens(self) -> int:
        """Length of the answer so far, a token that ends it included."""
        return len(self.output_ids)

    @property
    def prompt_logprobs(self) -> TokenLogprobs | None:
        """Of the prompt's tokens from the asked place on; None before they have come."""
        if self._prompt_logprobs is None and self.first_sample is not None:
            return self.first_sample.prompt_logprobs
        return self._prompt_logprobs

    @property
    def hidden_rows(self) -> int:
        """How many rows of hidden states there are, if any."""
        return self.prompt_tokens + max(self.completion_tokens - 1, 0)

    @property
    def text(self) -> str:
        """All text so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def seconds(self) -> float:
        """Since the request was made."""
        return time.monotonic() - self.started

    @property
    def finish_reason(self) -> str | None:
        """As the OpenAI API says it: "stop", "length", None while it runs; and SGLang's "abort"."""
        return self.finish.kind if self.finish else None

    def push(self, chunk: TokenChunk) -> str:
        """The new text that may go out. Raises GenerationAborted."""
        self.cached_tokens = max(self.cached_tokens, chunk.cached_tokens)
        self.finish = chunk.finish
        if chunk.finish is not None and chunk.finish.is_failure:
            raise GenerationAborted(chunk.finish, self.request)
        before = len(self.output_ids)
        if self.detokenizer is None:
            self.output_ids += chunk.token_ids
            delta = ""
        else:
            delta = self._to_text(chunk, self.detokenizer)
        self._take_details(chunk, len(self.output_ids) - before)
        if delta:
            self._pieces.append(delta)
            self.text_length += len(delta)
        if self.finish is not None:
            self.fresh = range(self.fresh.stop, len(self.output_ids))
        elif delta:
            end = bisect_left(self.text_offsets, self.text_length, self.fresh.stop)
            self.fresh = range(self.fresh.stop, end)
        return delta

    def _to_text(self, chunk: TokenChunk, detokenizer: IncrementalDetokenizer) -> str:
        pieces = []
        for token_id in chunk.token_ids:
            self.output_ids.append(token_id)
            self.text_offsets.append(self._decoded_characters)
            if chunk.finish is not None and token_id == chunk.finish.matched:
                break  # a token that stops is counted, and is no part of the text
            text = detokenizer.push(token_id)
            self._decoded_characters += len(text)
            pieces.append(self.stops.push(text))
            if self.stops.matched is not None:
                break
        if chunk.finish is not None and self.stops.matched is None:
            pieces.append(self.stops.push(detokenizer.flush()))
            pieces.append(self.stops.flush())
        if self.stops.matched is not None:
            self.finish = FinishReason("stop")
        return "".join(pieces)

    def _take_details(self, chunk: TokenChunk, kept: int) -> None:
        """What came with the tokens; where a stop string was met, with the first `kept` of them."""
        if chunk.logprobs is not None:
            self.logprobs.chosen.extend(chunk.logprobs.chosen[:kept])
            self.logprobs.top.extend(chunk.logprobs.top[:kept])
            self.logprobs.wanted.extend(chunk.logprobs.wanted[:kept])
        if chunk.prompt_logprobs is not None:
            self._prompt_logprobs = chunk.prompt_logprobs
        if chunk.hidden_states is not None:
            if not self.hidden_states:
                rows = self.prompt_tokens + max(len(chunk.token_ids) - 1, 0)
                self._hidden_row_bytes = len(chunk.hidden_states) // rows
            self.hidden_states += chunk.hidden_states
            del self.hidden_states[self.hidden_rows * self._hidden_row_bytes :]
