"""From the messages of a chat to the prompt that the model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ...tokenization.chat_template import ChatTemplateError
from ..errors import bad_request
from ..service import WorkerService
from .types import ChatMessage, TextBody

_Body = TypeVar("_Body", bound=TextBody)


async def chat_prompt(
    service: WorkerService,
    messages: Sequence[ChatMessage],
    variables: Mapping[str, Any] | None,
    *,
    continue_final_message: bool,
    param: str = "messages",
) -> list[int]:
    """Token ids of the prompt for the next message, or for the rest of the last one.

    `param` is the field that the messages come from. Raises ApiError 400 if there is no template,
    it refuses the messages or variables, or the last message is not the assistant's where it is to
    be continued.
    """
    template = service.tokenizer.chat_template
    if template is None:
        raise bad_request(
            "This model has no chat template; start the worker with --chat-template, "
            "or use /v1/completions",
            param,
        )
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
    known = [message.for_template() for message in messages]
    try:
        rendered = template.render(known, variables, continue_final_message=continue_final_message)
    except ChatTemplateError as error:
        raise bad_request(str(error), param) from error
    (prompt,) = await service.tokenize([rendered], add_special_tokens=False)
    return prompt


def with_template_stops(service: WorkerService, body: _Body) -> _Body:
    """With what the template, too, ends an answer at."""
    template = service.tokenizer.chat_template
    assert template is not None
    stops = body.stop + template.stop_strings
    stop_token_ids = body.stop_token_ids + template.stop_token_ids
    return body.model_copy(update={"stop": stops, "stop_token_ids": stop_token_ids})
