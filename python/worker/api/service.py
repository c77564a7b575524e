"""A running worker as its routes see it: what it serves, its limits, tokenizer and engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from ..config import ServerArgs
from ..messages import Ready
from ..tokenization.text_output import TextOutput, TextRequest
from ..tokenization.tokenizer import Tokenizer
from .engine_client import EngineClient
from .prompt_limits import PromptLimits
from .text_generation import TextGeneration

logger = logging.getLogger(__name__)

# Longer texts are tokenized in a thread, so that running streams do not wait for them.
_LONG_TEXT_CHARACTERS = 8192


@dataclass(frozen=True)
class WorkerService:
    """`created` is the time of the start in seconds since 1970."""

    server_args: ServerArgs
    engine_info: Ready
    tokenizer: Tokenizer
    engine: EngineClient
    created: int

    @property
    def limits(self) -> PromptLimits:
        """What fits into this worker."""
        return PromptLimits(
            context_length=self.engine_info.context_length,
            max_total_tokens=self.engine_info.max_total_tokens,
            vocab_size=self.engine_info.vocab_size,
            auto_truncate=self.server_args.allow_auto_truncate,
        )

    @property
    def model_name(self) -> str:
        """What /v1/models calls the model."""
        return self.server_args.served_model_name or self.server_args.model_path

    async def tokenize(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Token ids of each text."""
        if sum(map(len, texts)) <= _LONG_TEXT_CHARACTERS:
            return self._tokenize(texts, add_special_tokens)
        return await asyncio.to_thread(self._tokenize, texts, add_special_tokens)

    def _tokenize(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        return [self.tokenizer.encode(text, add_special_tokens) for text in texts]

    def generate(self, requests: Sequence[TextRequest], stream: bool) -> TextGeneration:
        """Start these requests. The result is to be used in a `with` block."""
        if self.server_args.log_requests:
            for request in requests:
                prompt = self.tokenizer.decode(request.input_ids, skip_special_tokens=False)
                logger.info("request rid=%s prompt=%r %r", request.rid, prompt, request.sampling)
        interval = self.server_args.stream_interval if stream else 0
        return TextGeneration(
            self.engine,
            self.tokenizer.token_bytes,
            requests,
            interval,
            log_texts=self.server_args.log_requests,
        )

    async def run(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Start these requests and wait for their answers."""
        with self.generate(requests, stream=False) as generation:
            return await generation.run()


def service_of(request: Request) -> WorkerService:
    """The service that the application was made with."""
    return request.app.state.service
