"""From the items of a conversation to the prompt that the model continues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ApiError, bad_request
from ...service import WorkerService
from ..chat_prompt import chat_prompt
from ..types import ChatMessage
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

    Raises ApiError: 400 if nothing was given, 404 if something that is referred to is not stored.
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
    return Conversation(history, await _own_items(store, body, key))


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
) -> list[int]:
    """Token ids, as a chat with the same messages has them. `limit` is that of the answer.

    Where the body allows it, a conversation that is too long loses its oldest turns: as few as
    leave room for `limit` tokens, or for half of all. Raises ApiError 400 as `chat_prompt` does.
    """
    head = [] if body.instructions is None else [_message("system", body.instructions)]
    messages = list(_messages(items))

    async def prompt_from(start: int) -> list[int]:
        return await chat_prompt(
            service,
            head + messages[start:],
            body.chat_template_kwargs,
            continue_final_message=False,
            param="input",
        )

    whole = await prompt_from(0)
    longest = service.limits.longest_request
    if body.truncation != "auto" or len(whole) + (limit or 1) <= longest:
        return whole
    room = limit or longest // 2
    # Templates want a user's message first.
    starts = [place for place, message in enumerate(messages) if message.role == "user"]
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if len(await prompt_from(starts[middle])) + room <= longest:
            high = middle
        else:
            low = middle + 1
    return await prompt_from(starts[low]) if starts else whole


def _messages(items: Iterable[Item]) -> Iterable[ChatMessage]:
    for item in items:
        if item["type"] == "message":
            parts = [{"type": "text", "text": part["text"]} for part in item["content"]]
            yield _message(item["role"], parts)


def _message(role: str, content: str | list[dict[str, str]]) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content})
