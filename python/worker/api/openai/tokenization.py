"""POST /v1/tokenize and /v1/detokenize: what the model's tokenizer makes of texts and tokens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ..errors import bad_request
from ..fields import RequestModel, described
from ..http_exchange import json_response, read_body
from ..openapi import takes
from ..service import service_of
from .chat_prompt import chat_prompt
from .tool_types import Tools
from .types import ChatMessage

router = APIRouter()


class TokenizeBody(RequestModel):
    """A text or a list of texts as `prompt`, or a chat as `messages`."""

    model: str = ""
    prompt: Annotated[str | list[str] | None, described("a string or a list of strings")] = None
    add_special_tokens: bool = True
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: Tools | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False


class DetokenizeBody(RequestModel):
    """The token ids of a text, or a list of such lists."""

    model: str = ""
    tokens: Annotated[
        list[int] | list[list[int]],
        described("a list of token ids or a list of such lists"),
    ]
    skip_special_tokens: bool = True


@router.post("/v1/tokenize", openapi_extra=takes(TokenizeBody))
async def tokenize(request: Request) -> Response:
    """Token ids as the completions routes would make them, and how many they are."""
    service = service_of(request)
    body = await read_body(request, TokenizeBody)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Give either prompt or messages", "prompt", "invalid_value")
    if body.messages is not None:
        tokens: Any = await chat_prompt(
            service,
            body.messages,
            body.chat_template_kwargs,
            tools=body.tools or (),
            continue_final_message=body.continue_final_message,
        )
    elif isinstance(body.prompt, str):
        (tokens,) = await service.tokenize([body.prompt], body.add_special_tokens)
    else:
        tokens = await service.tokenize(body.prompt or [], body.add_special_tokens)
    is_list = isinstance(body.prompt, list)
    count = [len(each) for each in tokens] if is_list else len(tokens)
    limit = service.limits.context_length
    return json_response({"tokens": tokens, "count": count, "max_model_len": limit})


@router.post("/v1/detokenize", openapi_extra=takes(DetokenizeBody))
async def detokenize(request: Request) -> Response:
    """The text that the tokens are the encoding of."""
    service = service_of(request)
    body = await read_body(request, DetokenizeBody)
    given: Any = body.tokens
    is_list = bool(given) and isinstance(given[0], list)
    lists = given if is_list else [given]
    for token_ids in lists:
        service.limits.check_token_ids(token_ids, "tokens")
    texts = await service.detokenize(lists, body.skip_special_tokens)
    return json_response({"text": texts if is_list else texts[0]})
