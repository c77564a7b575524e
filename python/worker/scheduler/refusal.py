"""Requests that can never be served, and what their clients are told."""

from __future__ import annotations

from ..messages import Embedding, EmbedRequest, FinishReason, GenerateRequest, TokenChunk
from .request import Answer

# By whether the model embeds.
_WRONG_KIND = {
    True: "The model is served to embed or classify texts; it generates none.",
    False: "The model is served to generate text; --is-embedding has it embed texts.",
}


def refusal(
    message: GenerateRequest | EmbedRequest, *, limit: int, embeds: bool, token_types: int
) -> str | None:
    """Why `message` cannot be served, if so.

    limit: tokens of the longest request; token_types: how many token types the model tells apart
    """
    if isinstance(message, EmbedRequest) != embeds:
        return _WRONG_KIND[embeds]
    tokens = len(message.input_ids)
    if not tokens:
        return "The prompt is empty."
    answers = isinstance(message, GenerateRequest) and message.sampling.max_new_tokens > 0
    if tokens + answers > limit:
        answer = " with at least one token of answer" if answers else ""
        return f"The prompt has {tokens} tokens;{answer} it must fit in {limit}."
    if isinstance(message, EmbedRequest) and message.token_type_ids and token_types > 1:
        return _refusal_of_types(message.token_type_ids, tokens, token_types)
    return None


def _refusal_of_types(types: list[int], tokens: int, known: int) -> str | None:
    if len(types) != tokens:
        return f"There are {len(types)} token_type_ids for {tokens} tokens."
    if not 0 <= min(types) <= max(types) < known:
        return f"token_type_ids go from 0 to {known - 1}, not from {min(types)} to {max(types)}."
    return None


def refused(message: GenerateRequest | EmbedRequest, reason: str, *, status: int = 400) -> Answer:
    """The answer to a request that is not served. `status` is that over HTTP."""
    finish = FinishReason("abort", message=reason, status=status)
    if isinstance(message, EmbedRequest):
        return Embedding(message.rid, failure=finish)
    return TokenChunk(message.rid, [], 0, finish)


def queue_is_full(limit: int) -> str:
    """What a request is told that would have to wait behind `limit` others."""
    return f"The worker is busy: {limit} requests wait already, and no more may. Try again later."
