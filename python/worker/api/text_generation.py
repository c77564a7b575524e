"""The requests of one call to the API while they run: the engine's tokens in, text out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

from ..tokenization.text_output import GenerationAborted, TextOutput, TextRequest
from ..tokenization.token_bytes import TokenBytes
from .engine_client import EngineClient, TokenStream
from .errors import ApiError
from .logs import abridged

logger = logging.getLogger(__name__)


class TextGeneration:
    """The requests of one call while they run.

    Use it in a `with` block: leaving it aborts the rest.
    """

    def __init__(
        self,
        engine: EngineClient,
        token_bytes: TokenBytes | None,
        requests: Sequence[TextRequest],
        stream_interval: int,
        *,
        timeout_seconds: float | None = None,
        log_texts: bool = False,
    ) -> None:
        self._log_texts = log_texts
        self.outputs = TextOutput.begin(requests, token_bytes)
        self._by_rid = {output.request.rid: output for output in self.outputs}
        for_engine = [request.for_engine(stream_interval) for request in requests]
        measured = all(request.measured for request in requests)
        self._stream: TokenStream = engine.open(
            for_engine, measured=measured, timeout_seconds=timeout_seconds
        )

    def __enter__(self) -> TextGeneration:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    async def updates(self) -> AsyncIterator[tuple[TextOutput, str]]:
        """Each answer with its new text, whenever there is some, and when it ends (see `finish`).

        Where there is no text to wait for, whenever there are new tokens. Raises ApiError when the
        engine gives a request up or is gone.
        """
        while chunks := await self._stream.chunks():
            for chunk in chunks:
                output = self._by_rid[chunk.rid]
                if output.finish is not None:  # a stop string matched in an earlier one of `chunks`
                    continue
                try:
                    delta = output.push(chunk)
                except GenerationAborted as error:
                    raise ApiError(error.status, str(error), param=error.param) from error
                if output.finish is not None and chunk.finish is None:
                    self._stream.abort(chunk.rid)
                if output.finish is not None:
                    self._log(output)
                if delta or output.finish is not None or output.detokenizer is None:
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
            answer = output.text if output.detokenizer else str(output.output_ids)
            logger.info("answer rid=%s text=%s", output.request.rid, abridged(answer))
