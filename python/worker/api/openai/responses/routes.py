"""/v1/responses: create, retrieve, delete, cancel, list the input, count its tokens."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from ....tokenization.text_output import TextRequest
from ...errors import ApiError, bad_request
from ...http_exchange import (
    EventStream,
    json_response,
    read_body,
    read_query,
    unless_disconnected,
)
from ...openapi import queries, takes
from ...service import WorkerService, service_of
from ..call_form import check_choice
from ..chat_answer import AnswerForm
from ..chat_prompt import with_template_stops
from ..lists import list_of
from ..requests import text_requests
from .events import ResponseEvents
from .output import OutputItems
from .prompt import conversation, items_before, prompt_for
from .response import ResponseForm, item_status
from .store import Item, ResponseStore
from .types import InputTokensBody, ItemsQuery, ResponseBody, RetrieveQuery

router = APIRouter()


def install_responses(app: FastAPI, service: WorkerService) -> None:
    """Add the routes, and the store that they share."""
    folder = Path(service.server_args.file_storage_path)
    app.state.responses = ResponseStore(folder / "responses.sqlite3")
    app.include_router(router)


def _store_of(request: Request) -> ResponseStore:
    return request.app.state.responses


@router.post("/v1/responses", openapi_extra=takes(ResponseBody))
async def create_response(request: Request) -> Response:
    """The assistant's answer to a conversation, which is stored unless the client minds."""
    service, store = service_of(request), _store_of(request)
    body = await read_body(request, ResponseBody)
    key = uuid.uuid4().hex
    said = await conversation(store, body, key)
    rendered, prompt = await prompt_for(
        service, body, said.history + said.own, body.max_output_tokens
    )
    form = ResponseForm(key, body, service, AnswerForm.of(service, body, rendered))
    if body.include and not form.answer.is_text:
        raise bad_request(
            "include: log-probabilities are of answers that are nothing but text; leave out tools, "
            "and with a --reasoning-parser set separate_reasoning to false",
            "include",
        )
    requests = text_requests(
        service,
        with_template_stops(service, body),
        prompt,
        rid=form.id,
        param="input",
        form=form.answer,
    )
    items = form.new_items()
    if body.stream:
        events = ResponseEvents(form, items)
        stream = _events(store, form, items, events, requests, said.own)
        return EventStream(stream, events.fail)
    (output,) = await unless_disconnected(request.receive, service.run(requests))
    items.push(output.text, form.logprobs(output, range(output.completion_tokens)))
    items.end(item_status(output))
    return json_response(await _kept(store, form.ended(output, items.finished), said.own))


async def _events(
    store: ResponseStore,
    form: ResponseForm,
    items: OutputItems,
    events: ResponseEvents,
    requests: list[TextRequest],
    own_items: list[Item],
) -> AsyncGenerator[bytes, None]:
    """The first come with the first token: a request that the engine refuses has a status."""
    head = events.begin()
    with form.service.generate(requests, stream=True) as generation:
        async for output, text in generation.updates():
            content = head + events.write(items.push(text, form.logprobs(output, output.fresh)))
            head = b""
            if content:
                yield content
    (output,) = generation.outputs
    yield events.write(items.end(item_status(output)))
    yield events.end(await _kept(store, form.ended(output, items.finished), own_items))


async def _kept(
    store: ResponseStore, response: dict[str, Any], own_items: list[Item]
) -> dict[str, Any]:
    """The response, which is stored if its client wants so.

    An answer is worth having also when the disk is full: then it says that it is not stored.
    """
    if response["store"]:
        try:
            await store.add(response, own_items)
        except ApiError:  # which the log has
            return {**response, "store": False}
    return response


@router.post("/v1/responses/input_tokens", openapi_extra=takes(InputTokensBody))
async def count_input_tokens(request: Request) -> Response:
    """How many tokens the prompt of a response would have."""
    service = service_of(request)
    body = await read_body(request, InputTokensBody)
    check_choice(body)
    said = await conversation(_store_of(request), body, key="counted")
    _, prompt = await prompt_for(service, body, said.history + said.own, limit=None)
    return json_response({"object": "response.input_tokens", "input_tokens": len(prompt)})


@router.get("/v1/responses/{response_id}", openapi_extra=queries(RetrieveQuery))
async def retrieve_response(request: Request, response_id: str) -> Response:
    """A stored response as it was answered."""
    read_query(request, RetrieveQuery)
    turn = await _store_of(request).get(response_id)
    if turn is None:
        raise _not_found(response_id)
    return json_response(turn.response)


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Store it no longer. Responses that continue it keep the conversation so far."""
    if not await _store_of(request).delete(response_id):
        raise _not_found(response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """Always an error: only what runs in the background could be cancelled."""
    if await _store_of(request).get(response_id) is None:
        raise _not_found(response_id)
    raise bad_request("Only responses that run in the background can be cancelled", "response_id")


@router.get("/v1/responses/{response_id}/input_items", openapi_extra=queries(ItemsQuery))
async def list_input_items(request: Request, response_id: str) -> Response:
    """The items that it is the answer to, those of the responses that it continues included."""
    query = read_query(request, ItemsQuery)
    turns = await _store_of(request).conversation(response_id)
    if not turns:
        raise _not_found(response_id)
    items = items_before(turns)
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        ids = [item["id"] for item in items]
        if query.after not in ids:
            message = f"after: {response_id!r} has no item {query.after!r}"
            raise bad_request(message, "after", "invalid_value")
        items = items[ids.index(query.after) + 1 :]
    page = items[: query.limit]
    return json_response(list_of(page, has_more=len(items) > len(page)))


def _not_found(response_id: str) -> ApiError:
    message = f"Response with id {response_id!r} not found"
    return ApiError(404, message, param="response_id", code="response_not_found")
