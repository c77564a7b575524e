"""From the messages of a chat to the prompt that the model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ...tokenization.chat_template import ChatTemplate, ChatTemplateError, JsonObject
from ..errors import bad_request
from ..service import WorkerService
from .tool_types import ToolCallMessage, ToolDefinition
from .types import ChatMessage, TextBody

_Body = TypeVar("_Body", bound=TextBody)


async def chat_prompt(
    service: WorkerService,
    messages: Sequence[ChatMessage],
    variables: Mapping[str, Any] | None,
    *,
    tools: Sequence[ToolDefinition] = (),
    continue_final_message: bool,
    param: str = "messages",
) -> list[int]:
    """Token ids of what `rendered_chat` makes."""
    rendered = rendered_chat(
        service,
        messages,
        variables,
        tools=tools,
        continue_final_message=continue_final_message,
        param=param,
    )
    (prompt,) = await service.tokenize([rendered], add_special_tokens=False)
    return prompt


def rendered_chat(
    service: WorkerService,
    messages: Sequence[ChatMessage],
    variables: Mapping[str, Any] | None,
    *,
    tools: Sequence[ToolDefinition] = (),
    continue_final_message: bool,
    param: str = "messages",
) -> str:
    """The prompt for the next message, or for the rest of the last one.

    `param` is the field that the messages come from. Raises ApiError 400 if there is no template,
    it refuses the messages or variables or knows no tools, or the last message is not the
    assistant's where it is to be continued.
    """
    template = chat_template(service, param)
    if continue_final_message and messages[-1].role != "assistant":
        raise bad_request(
            f"continue_final_message: the last message must be the assistant's, not one of the "
            f"role {messages[-1].role!r}",
            "continue_final_message",
            "invalid_value",
        )
    taken = sorted(template.own_variables & (variables or {}).keys())
    if taken:
        name = f"chat_template_kwargs.{taken[0]}"
        raise bad_request(f"{name}: not to be set here", name, "invalid_value")
    if tools and not template.reads("tools"):
        raise bad_request(
            "tools: the chat template of this model knows no tools; start the worker with "
            "--chat-template and one that does, such as hermes",
            "tools",
        )
    known = _for_template(messages, param)
    try:
        return template.render(
            known,
            variables,
            tools=[tool.for_template() for tool in tools],
            continue_final_message=continue_final_message,
        )
    except ChatTemplateError as error:
        raise bad_request(str(error), param) from error


def chat_template(service: WorkerService, param: str = "messages") -> ChatTemplate:
    """Raises ApiError 400 if there is none."""
    template = service.tokenizer.chat_template
    if template is None:
        raise bad_request(
            "This model has no chat template; start the worker with --chat-template, "
            "or use /v1/completions",
            param,
        )
    return template


def reasoning_variables(
    service: WorkerService,
    effort: str | None,
    variables: Mapping[str, Any] | None,
    param: str = "reasoning_effort",
) -> dict[str, Any]:
    """`variables` for the template, with what tells it how much to reason, as `param` says.

    Some templates know efforts, others whether to reason at all: those take "none" alone. Raises
    ApiError 400 if this one knows neither, or it is said twice.
    """
    given = dict(variables or {})
    if effort is None:
        return given
    template = chat_template(service)
    name, value = "reasoning_effort", effort
    if not template.reads(name) and effort == "none":
        switches = (each for each in ("enable_thinking", "thinking") if template.reads(each))
        name, value = next(switches, name), False
    if not template.reads(name):
        raise bad_request(
            f"{param}: the chat template of this model does not know {effort!r}; leave it out",
            param,
        )
    if name in given:
        raise bad_request(
            f"{param}: chat_template_kwargs has {name}, which says the same",
            param,
        )
    return {**given, name: value}


def with_template_stops(service: WorkerService, body: _Body) -> _Body:
    """With what the template, too, ends an answer at."""
    template = service.tokenizer.chat_template
    assert template is not None
    stops = body.stop + template.stop_strings
    stop_token_ids = body.stop_token_ids + template.stop_token_ids
    return body.model_copy(update={"stop": stops, "stop_token_ids": stop_token_ids})


# ===== messages =====


def _for_template(messages: Sequence[ChatMessage], param: str) -> list[dict[str, Any]]:
    """As chat templates know messages; "developer" is OpenAI's newer word for "system".

    A tool's result gets the name of the tool. Raises ApiError 400 if it is of no call before it.
    """
    called: dict[str, str] = {}
    known = []
    for index, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        fields: dict[str, Any] = {"role": role, "content": message.text}
        name = message.name
        if message.tool_calls:
            fields["tool_calls"] = [_call_for_template(call) for call in message.tool_calls]
            called |= {call.id: call.function.name for call in message.tool_calls}
        if message.tool_call_id is not None:
            if message.tool_call_id not in called:
                where = f"{param}[{index}].tool_call_id"
                raise bad_request(
                    f"{where}: no message before has a call with the id {message.tool_call_id!r}",
                    where,
                )
            fields["tool_call_id"] = message.tool_call_id
            name = name or called[message.tool_call_id]
        if message.reasoning_content is not None:
            fields["reasoning_content"] = message.reasoning_content
        if name is not None:
            fields["name"] = name
        known.append(fields)
    return known


def _call_for_template(call: ToolCallMessage) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    with suppress(ValueError):  # one that is unfinished stays as it was written
        arguments = JsonObject(arguments or "{}")
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
