"""The prompts of POST /generate: text, token ids or embeddings, by themselves or in a session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from fastapi import Request

from ..messages import InputEmbeds
from ..tokenization.input_embeds import parse_embeddings
from .errors import bad_request
from .http_exchange import checked, read_bytes
from .native_types import GenerateBody
from .service import WorkerService
from .session_store import Continuation, SessionParams

_EMBEDS = "input_embeds"


@dataclass(frozen=True)
class Prompt:
    """What one answer, or `n` of them, go on from.

    `token_ids` include the context of the session, or are placeholders for `embeds`.
    """

    token_ids: list[int]
    embeds: InputEmbeds | None = None
    start: Continuation | None = None


@dataclass(frozen=True)
class GenerateCall:
    """A body, and the prompts that its `prompt_field` gives, `is_list` as a list."""

    body: GenerateBody
    prompts: list[Prompt]
    prompt_field: str
    is_list: bool


async def read_call(service: WorkerService, request: Request) -> GenerateCall:
    """Raises ApiError 400 for a body that is wrong; whether its prompts fit is not looked at."""
    content = await read_bytes(request)
    given_embeds = None
    if f'"{_EMBEDS}"'.encode() in content:
        given_embeds, content = _take_out_embeds(content)
    body = checked(content, GenerateBody)
    given = {"text": body.text, "input_ids": body.input_ids, _EMBEDS: given_embeds}
    fields = [name for name, value in given.items() if value is not None]
    if len(fields) != 1:
        raise bad_request("Give either text, input_ids or input_embeds", "text")
    if given_embeds is not None:
        if body.session_params is not None:
            raise bad_request("A session goes on from tokens, not from input_embeds", _EMBEDS)
        prompts, is_list = await _embedded(service, given_embeds)
        return GenerateCall(body, prompts, _EMBEDS, is_list)
    if body.text is not None:
        is_list = isinstance(body.text, list)
        token_ids = await service.tokenize(body.text if is_list else [cast(str, body.text)])
    else:
        ids = cast(list[Any], body.input_ids)
        is_list = bool(ids) and isinstance(ids[0], list)
        token_ids = ids if is_list else [ids]
    if not token_ids:
        raise bad_request("The list of prompts is empty", fields[0])
    if body.session_params is None:
        prompts = [Prompt(ids) for ids in token_ids]
    else:
        prompts = await _in_sessions(service, body.session_params, token_ids, fields[0])
    return GenerateCall(body, prompts, fields[0], is_list)


# ===== sessions =====


async def _in_sessions(
    service: WorkerService,
    params: SessionParams | list[SessionParams],
    prompts: list[list[int]],
    field: str,
) -> list[Prompt]:
    """Each of `prompts` behind what it goes on from; one of `params` for all lets all branch there.

    Raises ApiError 400 if a session or its request is not there, or the prompt is too long for it.
    """
    if isinstance(params, SessionParams):
        starts = [service.sessions.find(params.id).continuation(params)] * len(prompts)
    elif len(params) == len(prompts):
        starts = [service.sessions.find(each.id).continuation(each) for each in params]
    else:
        raise bad_request(
            f"session_params has {len(params)} entries for {len(prompts)} prompts", "session_params"
        )
    tokenizer = service.loaded_tokenizer
    beginning = tokenizer.encode("") if tokenizer else []  # of any text: one token, or none
    whole = [
        Prompt(start.context + _without(beginning, own) if start.context else own, start=start)
        for start, own in zip(starts, prompts, strict=True)
    ]
    for prompt in whole:
        service.limits.check_token_ids(prompt.token_ids, field)
    texts = [prompt.token_ids for prompt in whole]  # without a tokenizer, tokens are counted
    if tokenizer:
        texts = await service.detokenize(texts, False)
    for start, text in zip(starts, texts, strict=True):
        start.session.check_capacity(len(text))
    return whole


def _without(beginning: list[int], token_ids: list[int]) -> list[int]:
    count = len(beginning)
    return token_ids[count:] if token_ids[:count] == beginning else token_ids


# ===== embeddings =====


async def _embedded(service: WorkerService, given: msgspec.Raw) -> tuple[list[Prompt], bool]:
    """The prompts in the JSON `given`, and whether it is a list of them."""
    size = service.engine_info.hidden_size
    try:
        embeds, is_list = await asyncio.to_thread(parse_embeddings, given, size)
    except ValueError as error:
        raise bad_request(f"{_EMBEDS}: {error}", _EMBEDS) from error
    return [Prompt([0] * len(each), each) for each in embeds], is_list


def _take_out_embeds(content: bytes | bytearray) -> tuple[msgspec.Raw | None, bytes]:
    """The text of the field `input_embeds`, and the body without it. Only the rest is worth the
    checks of a model, which would make an object of each number.
    """
    try:
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"The body is not valid JSON: {error}", code="invalid_json") from error
    given = fields.pop(_EMBEDS, None)
    if given is not None and bytes(given) == b"null":
        given = None
    return given, msgspec.json.encode(fields)
