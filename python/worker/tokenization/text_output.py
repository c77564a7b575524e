"""From the engine's tokens to an answer: detokenization, stop strings, counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ..messages import FinishReason, GenerateRequest, SamplingParams, TokenChunk
from .detokenizer import IncrementalDetokenizer
from .stop_strings import StopWatcher
from .token_bytes import TokenBytes


class GenerationAborted(Exception):
    """The engine gave a request up. `status` is an HTTP one: below 500 the request is at fault."""

    def __init__(self, reason: FinishReason) -> None:
        super().__init__(reason.message or "The engine gave the request up")
        self.status = reason.status


@dataclass(frozen=True)
class TextRequest:
    """One prompt and all that its answer depends on, the text side included.

    One that is not `measured` is no part of the metrics.
    """

    rid: str
    input_ids: list[int]
    sampling: SamplingParams
    stop_strings: tuple[str, ...] = ()
    skip_special_tokens: bool = True
    measured: bool = True

    def samples(self, count: int) -> list[TextRequest]:
        """Requests for `count` answers to the same prompt; for one, this request itself.

        Where a seed is given, sample i is drawn with seed + i: the first is the answer of one
        alone. Several have the rids "RID-0", "RID-1" and so on.
        """
        if count == 1:
            return [self]
        return [
            replace(self, rid=f"{self.rid}-{index}", sampling=_reseeded(self.sampling, index))
            for index in range(count)
        ]

    def for_engine(self, stream_interval: int) -> GenerateRequest:
        """With 0 the engine sends all but the first token at the end, unless a stop string must be
        watched for.
        """
        if stream_interval == 0 and self.stop_strings:
            stream_interval = 1
        return GenerateRequest(self.rid, self.input_ids, self.sampling, stream_interval)


def _reseeded(sampling: SamplingParams, step: int) -> SamplingParams:
    """With the seed that comes `step` after the given one, around the end of int64."""
    if sampling.seed is None:
        return sampling
    seed = (sampling.seed + step + 2**63) % 2**64 - 2**63
    return msgspec.structs.replace(sampling, seed=seed)


@dataclass
class TextOutput:
    """The answer to one TextRequest as far as it is known.

    `output_ids` are its tokens up to the one that ended it. Without a `detokenizer` there is no
    text. Times are seconds of a monotonic clock.
    """

    request: TextRequest
    index: int
    detokenizer: IncrementalDetokenizer | None
    stops: StopWatcher
    finish: FinishReason | None = None
    cached_tokens: int = 0
    output_ids: list[int] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _pieces: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, request: TextRequest, index: int, token_bytes: TokenBytes | None) -> TextOutput:
        """Of the request at place `index` of a call; None for `token_bytes` makes no text."""
        detokenizer = None
        if token_bytes is not None:
            detokenizer = IncrementalDetokenizer(token_bytes, request.skip_special_tokens)
        return cls(request, index, detokenizer, StopWatcher(request.stop_strings))

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.input_ids)

    @property
    def completion_tokens(self) -> int:
        """Length of the answer so far, a token that ends it included."""
        return len(self.output_ids)

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

    @property
    def finish_details(self) -> dict[str, Any] | None:
        """As the native API says it, with what was matched, or the length."""
        if self.finish is None:
            return None
        if self.finish.kind == "length":
            return {"type": "length", "length": self.completion_tokens}
        if self.finish.kind == "abort":
            return {"type": "abort", "message": self.finish.message}
        return {"type": "stop", "matched": self.stops.matched or self.finish.matched}

    @property
    def meta_info(self) -> dict[str, Any]:
        """As the native API says it."""
        known = {
            "id": self.request.rid,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "finish_reason": self.finish_details,
        }
        return known if self.finish is None else known | {"e2e_latency": self.seconds}

    def push(self, chunk: TokenChunk) -> str:
        """The new text that may go out. Raises GenerationAborted."""
        self.cached_tokens = max(self.cached_tokens, chunk.cached_tokens)
        self.finish = chunk.finish
        if chunk.finish is not None and chunk.finish.is_failure:
            raise GenerationAborted(chunk.finish)
        if self.detokenizer is None:
            self.output_ids += chunk.token_ids
            return ""
        delta = self._to_text(chunk, self.detokenizer)
        if delta:
            self._pieces.append(delta)
        return delta

    def _to_text(self, chunk: TokenChunk, detokenizer: IncrementalDetokenizer) -> str:
        pieces = []
        for token_id in chunk.token_ids:
            self.output_ids.append(token_id)
            if chunk.finish is not None and token_id == chunk.finish.matched:
                break  # a token that stops is counted, and is no part of the text
            pieces.append(self.stops.push(detokenizer.push(token_id)))
            if self.stops.matched is not None:
                break
        if chunk.finish is not None and self.stops.matched is None:
            pieces.append(self.stops.push(detokenizer.flush()))
            pieces.append(self.stops.flush())
        if self.stops.matched is not None:
            self.finish = FinishReason("stop")
        return "".join(pieces)
