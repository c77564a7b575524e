"""The Response object: one answer, from its beginning to how it ended."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ....tokenization.text_output import TextOutput
from ...errors import ApiError
from ...service import WorkerService
from ..chat_answer import AnswerForm
from ..logprobs import chat_logprobs
from ..tool_choice import shown_choice
from .output import OutputItems
from .prompt import response_id
from .store import Item
from .types import ResponseBody

# By the reason of the answer's end.
_STATUSES = {"stop": "completed", "length": "incomplete", "abort": "cancelled"}

_INCOMPLETE = {"reason": "max_output_tokens"}

# What requests cannot ask for here.
_ABSENT = (
    "access_programs",
    "conversation",
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "tool_usage",
)


@dataclass(frozen=True)
class ResponseForm:
    """What is known of a response before it ends: its id's `key`, what its request said, and how
    its answer is read.
    """

    key: str
    body: ResponseBody
    service: WorkerService
    answer: AnswerForm
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """That of the response."""
        return response_id(self.key)

    def new_items(self) -> OutputItems:
        """For the output, as it comes."""
        return OutputItems(self.key, self.answer.new_parser())

    def logprobs(self, output: TextOutput, places: range) -> list[Item]:
        """Those of these places of the answer, if there are any; unlike in chats with `bytes` that
        are never null.
        """
        if output.request.logprobs is None:
            return []
        chat = chat_logprobs(output, places, self.service.tokenizer.token_bytes)
        return [
            {**_with_bytes(entry), "top_logprobs": [_with_bytes(e) for e in entry["top_logprobs"]]}
            for entry in chat["content"]
        ]

    def begun(self) -> dict[str, Any]:
        """The object while the answer is being made."""
        return self._object("in_progress", [])

    def ended(self, output: TextOutput, items: Sequence[Item]) -> dict[str, Any]:
        """The object with the answer's items. One that was aborted on purpose is "cancelled"."""
        status = _STATUSES[output.finish_reason or "abort"]
        return {
            **self._object(status, items),
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": _INCOMPLETE if status == "incomplete" else None,
            "usage": self._usage(output),
        }

    def failed(self, items: Sequence[Item], error: ApiError) -> dict[str, Any]:
        """The object with what there was when the engine failed."""
        return {
            **self._object("failed", items),
            "error": {"code": "server_error", "message": error.message},
        }

    def _object(self, status: str, output: Sequence[Item]) -> dict[str, Any]:
        body = self.body
        reasoning = body.reasoning
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": body.model or self.service.model_name,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "prompt_cache_retention": body.prompt_cache_retention,
            "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": body.text_format, "verbosity": "medium"},
            "tool_choice": shown_choice(body.tool_choice),
            "tools": [tool.shown() for tool in body.functions],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None,
            "user": body.user,
            **dict.fromkeys(_ABSENT),
        }

    def _usage(self, output: TextOutput) -> dict[str, Any]:
        """Of the prompt, what was not in the prefix cache is written to it."""
        written = output.prompt_tokens - output.cached_tokens
        if self.service.server_args.disable_radix_cache:
            written = 0
        return {
            "input_tokens": output.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": output.cached_tokens,
                "cache_write_tokens": written,
            },
            "output_tokens": output.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens(output)},
            "total_tokens": output.prompt_tokens + output.completion_tokens,
        }

    def _reasoning_tokens(self, output: TextOutput) -> int:
        """With those of the tags."""
        form, text = self.answer.reasoning, output.text
        is_open = self.answer.begins_in_reasoning
        if form is None or not (is_open or text.lstrip().startswith(form.start)):
            return 0
        end = text.find(form.end)
        if end < 0:
            return output.completion_tokens
        return bisect_left(output.text_offsets, end + len(form.end))


def item_status(output: TextOutput) -> str:
    """That of the last item of an answer that has ended."""
    return "completed" if output.finish_reason == "stop" else "incomplete"


def _with_bytes(entry: Item) -> Item:
    return {**entry, "bytes": entry["bytes"] or []}
