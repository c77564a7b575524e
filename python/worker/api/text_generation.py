"""From the engine's tokens to text: detokenization, stop strings, counts."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..messages import FinishReason, GenerateRequest, SamplingParams, TokenChunk
from ..tokenization.detokenizer import IncrementalDetokenizer
from ..tokenization.stop_strings import StopWatcher
from ..tokenization.token_bytes import TokenBytes
from .engine_client import EngineClient, TokenStream
from .errors import ApiError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextRequest:
    """One prompt and all that its answer depends on, the text side included."""

    rid: str
    input_ids: list[int]
    sampling: SamplingParams
    stop_strings: tuple[str, ...] = ()
    skip_special_tokens: bool = True

    def for_engine(self, stream_interval: int) -> GenerateRequest:
        """With 0 the engine sends all at the end, unless a stop string must be watched for."""
        if stream_interval == 0 and self.stop_strings:
            stream_interval = 1
        return GenerateRequest(self.rid, self.input_ids, self.sampling, stream_interval)


@dataclass
class TextOutput:
    """The answer to one TextRequest as far as it is known.

    Times are seconds of a monotonic clock.
    """

    request: TextRequest
    index: int
    detokenizer: IncrementalDetokenizer
    stops: StopWatcher
    finish: FinishReason | None = None
    cached_tokens: int = 0
    completion_tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    _pieces: list[str] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.input_ids)

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
        """As the OpenAI API says it: "stop", "length", or None while it runs."""
        return self.finish.kind if self.finish else None

    @property
    def finish_details(self) -> dict[str, Any] | None:
        """As the native API says it, with what was matched, or the length."""
        if self.finish is None:
            return None
        if self.finish.kind == "length":
            return {"type": "length", "length": self.completion_tokens}
        return {"type": "stop", "matched": self.stops.matched or self.finish.matched}

    def push(self, chunk: TokenChunk) -> str:
        """The new text that may go out. Raises ApiError if the engine gave the request up."""
        self.cached_tokens = chunk.cached_tokens
        finish = chunk.finish
        if finish is not None and finish.kind == "abort":
            raise ApiError(finish.status, finish.message or "The engine gave the request up")
        token_ids = chunk.token_ids
        self.completion_tokens += len(token_ids)
        if finish is not None and token_ids and token_ids[-1] == finish.matched:
            token_ids = token_ids[:-1]  # a token that stops is counted, and is no part of the text
        pieces = []
        for position, token_id in enumerate(token_ids):
            pieces.append(self.stops.push(self.detokenizer.push(token_id)))
            if self.stops.matched is not None:
                self.completion_tokens -= len(chunk.token_ids) - position - 1
                break
        if finish is not None and self.stops.matched is None:
            pieces.append(self.stops.push(self.detokenizer.flush()))
            pieces.append(self.stops.flush())
        if self.stops.matched is not None:
            finish = FinishReason("stop")
        self.finish = finish
        delta = "".join(pieces)
        if delta:
            self._pieces.append(delta)
        return delta


class TextGeneration:
    """The requests of one call while they run.

    Use it in a `with` block: leaving it aborts the rest.
    """

    def __init__(
        self,
        engine: EngineClient,
        token_bytes: TokenBytes,
        requests: Sequence[TextRequest],
        stream_interval: int,
        log_texts: bool = False,
    ) -> None:
        self._log_texts = log_texts
        self.outputs = [
            TextOutput(
                request,
                index,
                IncrementalDetokenizer(token_bytes, request.skip_special_tokens),
                StopWatcher(request.stop_strings),
            )
            for index, request in enumerate(requests)
        ]
        self._by_rid = {output.request.rid: output for output in self.outputs}
        for_engine = [request.for_engine(stream_interval) for request in requests]
        self._stream: TokenStream = engine.open(for_engine)

    def __enter__(self) -> TextGeneration:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    async def updates(self) -> AsyncIterator[tuple[TextOutput, str]]:
        """Each answer with its new text, whenever there is some, and when it ends (see `finish`).

        Raises ApiError when the engine gives a request up or is gone.
        """
        while chunks := await self._stream.chunks():
            for chunk in chunks:
                output = self._by_rid[chunk.rid]
                if output.finish is not None:  # a stop string matched in an earlier one of `chunks`
                    continue
                delta = output.push(chunk)
                if output.finish is not None and chunk.finish is None:
                    self._stream.abort(chunk.rid)
                if output.finish is not None:
                    self._log(output)
                if delta or output.finish is not None:
                    yield output, delta

    async def run(self) -> list[TextOutput]:
        """Wait for all answers to end."""
        async for _ in self.updates():
            pass
        return self.outputs

    def _log(self, output: TextOutput) -> None:
        logger.debug(
            "finished rid=%s prompt_tokens=%d cached_tokens=%d completion_tokens=%d finish=%s "
            "seconds=%.3f",
            output.request.rid,
            output.prompt_tokens,
            output.cached_tokens,
            output.completion_tokens,
            output.finish_reason,
            output.seconds,
        )
        if self._log_texts:
            logger.info("answer rid=%s text=%r", output.request.rid, output.text)
