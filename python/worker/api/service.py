"""A running worker as its routes see it: what it serves, its limits, tokenizer and engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from fastapi import Request

from ..config import ServerArgs
from ..messages import Ready
from ..tokenization.text_output import TextOutput, TextRequest
from ..tokenization.token_bytes import TokenBytes
from ..tokenization.tokenizer import ModelInput, TextOrPair, Tokenizer
from .batch.storage import Storage
from .engine_client import EngineClient
from .errors import bad_request
from .http_exchange import arrival
from .logs import abridged
from .prompt_limits import PromptLimits
from .session_store import SessionStore
from .text_generation import TextGeneration

logger = logging.getLogger(__name__)

_MUCH_TEXT = 8192  # characters, or tokens

_Given = TypeVar("_Given", bound=Sized)
_Made = TypeVar("_Made")


@dataclass
class WorkerService:
    """`created` is the time of the start in seconds since 1970.

    `loaded_tokenizer` is None under --skip-tokenizer-init.
    """

    server_args: ServerArgs
    engine_info: Ready
    loaded_tokenizer: Tokenizer | None
    engine: EngineClient
    created: int
    sessions: SessionStore = field(default_factory=SessionStore)

    @property
    def tokenizer(self) -> Tokenizer:
        """For all that needs text. Raises ApiError 400 if the worker has none."""
        if self.loaded_tokenizer is None:
            route = "/generate" if self.engine_info.embedding is None else "/encode"
            raise bad_request(
                "This worker was started with --skip-tokenizer-init and knows no text; "
                f"use {route} with input_ids"
            )
        return self.loaded_tokenizer

    @property
    def token_bytes(self) -> TokenBytes | None:
        """What makes text of tokens, if there is a tokenizer."""
        return self.loaded_tokenizer and self.loaded_tokenizer.token_bytes

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

    @cached_property
    def storage(self) -> Storage:
        """Files and batches, which other workers may share."""
        return Storage(Path(self.server_args.file_storage_path), self.model_name)

    def now_serves(self, model_path: str, load_format: str) -> None:
        """The weights are others from now on; the tokenizer stays what it was."""
        self.server_args = self.server_args.with_weights(model_path, load_format)

    async def tokenize(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Token ids of each text."""
        encode = partial(self.tokenizer.encode, add_special_tokens=add_special_tokens)
        return await _map(encode, texts)

    async def detokenize(
        self, prompts: Sequence[list[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of each prompt."""
        decode = partial(self.tokenizer.decode_whole, skip_special_tokens=skip_special_tokens)
        return await _map(decode, prompts)

    async def encode_inputs(self, texts: Sequence[TextOrPair]) -> list[ModelInput]:
        """What an embedding model reads of them; cut under --allow-auto-truncate."""
        longest = self.limits.longest_request if self.limits.auto_truncate else None
        size = sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
        return await run_apart(partial(self.tokenizer.encode_inputs, texts, longest), size)

    def generate(self, requests: Sequence[TextRequest], stream: bool) -> TextGeneration:
        """Start these requests. The result is to be used in a `with` block."""
        if self.server_args.log_requests:
            for request in requests:
                logger.info(
                    "request rid=%s prompt_tokens=%d prompt=%s stop=%s %r",
                    request.rid,
                    len(request.input_ids),
                    "(embeddings)" if request.input_embeds else self.shown(request.input_ids),
                    request.stop_strings,
                    request.sampling,
                )
        interval = self.server_args.stream_interval if stream else 0
        return TextGeneration(
            self.engine,
            self.token_bytes,
            requests,
            interval,
            timeout_seconds=self.seconds_left(),
            log_texts=self.server_args.log_requests,
        )

    def seconds_left(self) -> float | None:
        """Until the deadline of what is being answered; None if it has none."""
        limit = self.server_args.request_timeout
        if limit == 0.0:
            return None
        now = time.monotonic()
        return limit - (now - (arrival.get() or now))

    def shown(self, prompt: list[int]) -> str:
        """A prompt as logs show it."""
        if self.loaded_tokenizer is None:
            return abridged(str(prompt))
        return abridged(self.loaded_tokenizer.decode(prompt, skip_special_tokens=False))

    async def run(self, requests: Sequence[TextRequest]) -> list[TextOutput]:
        """Start these requests and wait for their answers."""
        with self.generate(requests, stream=False) as generation:
            return await generation.run()


async def _map(work: Callable[[_Given], _Made], given: Sequence[_Given]) -> list[_Made]:
    return await run_apart(lambda: [work(each) for each in given], sum(map(len, given)))


async def run_apart(work: Callable[[], _Made], size: int) -> _Made:
    """In a thread if there is much to read, so that running streams do not wait for it."""
    return work() if size <= _MUCH_TEXT else await asyncio.to_thread(work)


def service_of(request: Request) -> WorkerService:
    """The service that the application was made with."""
    return request.app.state.service
