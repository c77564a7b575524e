"""From the items of a conversation to the prompt that the model continues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ApiError, bad_request
from ...service import WorkerService
from ..chat_prompt import reasoning_variables, rendered_chat
from .messages import chat_message, messages_of, starts_of
from .store import Item, ResponseStore, StoredResponse
from .types import ItemReference, Message, OtherItem, PromptBody

_PREFIX = "resp_"


def response_id(key: str) -> str:
    """The id of the response whose items' ids hold this `key` of 32 hexadecimal digits."""
    return _PREFIX + key


@dataclass(frozen=True)
class Conversation:
    """Items of the responses that a request continues, and those that it adds by itself."""

    history: list[Item]
    own: list[Item]


async def conversation(store: ResponseStore, body: PromptBody, key: str) -> Conversation:
    """What the answer called `key` is an answer to.

    Raises ApiError: 400 if nothing was given, or the output of a call that nobody made; 404 if
    something that is referred to is not stored.
    """
    if body.input in (None, []) and body.previous_response_id is None:
        raise bad_request("input: this field is required", "input", "missing_required_parameter")
    history: list[Item] = []
    if body.previous_response_id is not None:
        turns = await store.conversation(body.previous_response_id)
        if not turns:
            raise ApiError(
                404,
                f"Previous response with id {body.previous_response_id!r} not found",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        history = items_before(turns) + turns[-1].response["output"]
    own = await _own_items(store, body, key)
    _check_calls(history, own)
    return Conversation(history, own)


def items_before(turns: Sequence[StoredResponse]) -> list[Item]:
    """The items that the last of these turns is the answer to."""
    items: list[Item] = []
    for turn in turns[:-1]:
        items += turn.input + turn.response["output"]
    return items + turns[-1].input


async def _own_items(store: ResponseStore, body: PromptBody, key: str) -> list[Item]:
    given = body.input or []
    if isinstance(body.input, str):
        given = [Message(role="user", content=body.input)]
    items: list[Item] = []
    for index, item in enumerate(given):
        assert not isinstance(item, str | OtherItem)  # of which there are none that are taken
        if isinstance(item, ItemReference):
            items.append(await _stored_item(store, item.id, f"input[{index}]"))
        else:
            items.append(item.item(f"{key}_{index}"))
    return items


def _check_calls(history: Iterable[Item], own: Iterable[Item]) -> None:
    """Every output among a request's `own` items must be of a call before it."""
    called = {item["call_id"] for item in history if item["type"] == "function_call"}
    for index, item in enumerate(own):
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            where = f"input[{index}].call_id"
            raise bad_request(
                f"{where}: no function_call before has the call_id {item['call_id']!r}", where
            )


async def _stored_item(store: ResponseStore, item_id: str, param: str) -> Item:
    """The item's id says which response it came with."""
    _, _, key = item_id.partition("_")
    turn = await store.get(response_id(key.partition("_")[0]))
    for item in (turn.input + turn.response["output"]) if turn else ():
        if item["id"] == item_id:
            return item
    message = (
        f"Item with id {item_id!r} not found; those of responses that are not stored never are"
    )
    raise ApiError(404, message, param=param, code="item_not_found")


async def prompt_for(
    service: WorkerService, body: PromptBody, items: Sequence[Item], limit: int | None
) -> tuple[str, list[int]]:
    """Text and token ids, as a chat with the same messages has them. `limit` is that of the answer.

    Where the body allows it, a conversation that is too long loses its oldest turns: as few as
    leave room for `limit` tokens, or for half of all. Raises ApiError 400 as `rendered_chat` and
    `reasoning_variables` do.
    """
    effort = body.reasoning.effort if body.reasoning else None
    variables = reasoning_variables(
        service, effort, body.chat_template_kwargs, param="reasoning.effort"
    )
    head = [] if body.instructions is None else [chat_message("system", body.instructions)]
    messages = messages_of(items)

    async def prompt_from(start: int) -> tuple[str, list[int]]:
        rendered = rendered_chat(
            service,
            head + messages[start:],
            variables,
            tools=body.tools_to_call,
            continue_final_message=False,
            param="input",
        )
        (prompt,) = await service.tokenize([rendered], add_special_tokens=False)
        return rendered, prompt

    whole = await prompt_from(0)
    longest = service.limits.longest_request
    if body.truncation != "auto" or len(whole[1]) + (limit or 1) <= longest:
        return whole
    room = limit or longest // 2
    starts = starts_of(messages)
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        _, prompt = await prompt_from(starts[middle])
        if len(prompt) + room <= longest:
            high = middle
        else:
            low = middle + 1
    return await prompt_from(starts[low]) if starts else whole
