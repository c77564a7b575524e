"""From the items of a conversation to the prompt that the model continues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ApiError, bad_request
from ...service import WorkerService
from ..chat_prompt import reasoning_variables, rendered_chat
from ..types import ChatMessage
from .store import Item, ResponseStore, StoredResponse
from .types import ItemReference, Message, OtherItem, PromptBody

_PREFIX = "resp_"

# Items that nobody but the assistant writes.
_WRITTEN = ("reasoning", "function_call")


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
    head = [] if body.instructions is None else [_message("system", body.instructions)]
    messages = list(_messages(items))

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
    # Templates want a user's message first.
    starts = [place for place, message in enumerate(messages) if message.role == "user"]
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        _, prompt = await prompt_from(starts[middle])
        if len(prompt) + room <= longest:
            high = middle
        else:
            low = middle + 1
    return await prompt_from(starts[low]) if starts else whole


@dataclass
class _Turn:
    """A message of the assistant that is put together from items that follow each other."""

    reasoning: list[str] = field(default_factory=list)
    parts: list[Item] = field(default_factory=list)
    calls: list[Item] = field(default_factory=list)

    def goes_on_with(self, item: Item) -> bool:
        """Calls end a turn: what is written between them and their outputs is part of it."""
        return bool(self.calls) or item["type"] == "function_call" or not self.parts

    def add(self, item: Item) -> None:
        """The next item of the assistant."""
        match item["type"]:
            case "reasoning":
                self.reasoning += [part["text"] for part in item.get("content") or ()]
            case "message":
                self.parts += _text_parts(item["content"])
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                self.calls.append(call)

    def message(self) -> Iterable[ChatMessage]:
        """None if nothing was said: reasoning alone leads to nothing."""
        if self.parts or self.calls:
            yield _message(
                "assistant",
                self.parts or None,
                reasoning_content="".join(self.reasoning) or None,
                tool_calls=self.calls or None,
            )


def _messages(items: Iterable[Item]) -> Iterable[ChatMessage]:
    """As a chat has them: what the assistant thought, said and called is one message."""
    turn = _Turn()
    for item in items:
        is_written = item["type"] in _WRITTEN or item.get("role") == "assistant"
        if not is_written or not turn.goes_on_with(item):
            yield from turn.message()
            turn = _Turn()
        if is_written:
            turn.add(item)
        elif item["type"] == "message":
            yield _message(item["role"], _text_parts(item["content"]))
        else:
            output = item["output"]
            yield _message(
                "tool",
                output if isinstance(output, str) else _text_parts(output),
                tool_call_id=item["call_id"],
                name=item.get("name"),
            )
    yield from turn.message()


def _text_parts(parts: Iterable[Item]) -> list[Item]:
    return [{"type": "text", "text": part["text"]} for part in parts]


def _message(role: str, content: str | list[Item] | None, **more: Any) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content, **more})
