"""Texts in, vectors out: what all routes of embedding and classification models do."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..messages import EmbeddingInfo, EmbedRequest
from ..tokenization.tokenizer import ModelInput
from .prompt_limits import check_count
from .service import WorkerService

logger = logging.getLogger(__name__)

Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class EmbeddedText:
    """`values` [size] are a point in space, or the scores of a classification.

    `seconds` is how long the call took that it was part of.
    """

    rid: str
    values: Numbers
    prompt_tokens: int
    cached_tokens: int
    seconds: float


def info_of(service: WorkerService) -> EmbeddingInfo:
    """What the served model answers with, which embeds or classifies."""
    info = service.engine_info.embedding
    assert info is not None
    return info


async def read_inputs(
    service: WorkerService, given: str | list[str] | list[int] | list[list[int]], param: str
) -> list[ModelInput]:
    """A text or several, or the token ids of them, as the model reads them.

    Raises ApiError 400 if there are none or too many, or one of them does not fit.
    """
    is_one = is_one_text(given)
    texts: Any = [given] if is_one else given
    check_count(len(texts), param)
    if isinstance(texts[0], str):
        inputs = await service.encode_inputs(texts)
    else:
        inputs = [ModelInput(token_ids) for token_ids in texts]
    names = [param] if is_one else [f"{param}[{index}]" for index in range(len(texts))]
    return fitting(service, inputs, names)


def is_one_text(given: str | list[Any]) -> bool:
    """Whether this is a text, or the token ids of one; else it is a list of such."""
    return isinstance(given, str) or (bool(given) and isinstance(given[0], int))


def fitting(
    service: WorkerService, inputs: Sequence[ModelInput], names: Sequence[str]
) -> list[ModelInput]:
    """The same, once each fits the model. `names` are those of the fields that they come from."""
    limits = service.limits
    return [
        ModelInput(limits.fit_text(each.input_ids, name), each.token_type_ids)
        for each, name in zip(inputs, names, strict=True)
    ]


async def embed(
    service: WorkerService, inputs: Sequence[ModelInput], rids: Sequence[str]
) -> list[EmbeddedText]:
    """What the model makes of `inputs`, under these request ids. Raises ApiError."""
    requests = [
        EmbedRequest(rid, each.input_ids, each.token_type_ids)
        for rid, each in zip(rids, inputs, strict=True)
    ]
    if service.server_args.log_requests:
        for request in requests:
            tokens, text = len(request.input_ids), service.shown(request.input_ids)
            logger.info("request rid=%s tokens=%d text=%s", request.rid, tokens, text)
    started = time.monotonic()
    embeddings = await service.engine.embed(requests, timeout_seconds=service.seconds_left())
    seconds = time.monotonic() - started
    return [
        EmbeddedText(
            embedding.rid,
            np.frombuffer(embedding.values, np.float32),
            len(request.input_ids),
            embedding.cached_tokens,
            seconds,
        )
        for request, embedding in zip(requests, embeddings, strict=True)
    ]


def new_rids(kind: str, count: int) -> list[str]:
    """Request ids of one call: its own id, which begins with `kind`, and the place of each."""
    name = f"{kind}-{uuid.uuid4().hex}"
    return [f"{name}-{index}" for index in range(count)]


def usage_of(texts: Sequence[EmbeddedText], cache_report: bool) -> dict[str, Any]:
    """The usage object of OpenAI's answers; there are no tokens but those of prompts."""
    prompt_tokens = sum(text.prompt_tokens for text in texts)
    usage: dict[str, Any] = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    if cache_report:
        cached_tokens = sum(text.cached_tokens for text in texts)
        usage["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    return usage
