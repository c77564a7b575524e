"""How the answers of a chat are read and told: text, reasoning and calls of tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...parsers.answer_parser import AnswerParser
from ...parsers.deltas import Answer, CallDelta, Delta, ReasoningDelta, TextDelta
from ...parsers.reasoning_parser import ReasoningFormat, ReasoningParser
from ...parsers.registry import REASONING_FORMATS, TOOL_CALL_PARSERS
from ...parsers.tool_call_parser import ToolCallParser
from ...tokenization.text_output import TextOutput
from ..errors import bad_request
from ..service import WorkerService
from .tool_types import schemas
from .types import AnswerBody


@dataclass(frozen=True)
class AnswerForm:
    """What the answers of one call are made of, besides text.

    `tools` are those that can be called, `call_limit` how many of them by one answer;
    `begins_in_reasoning` is what the prompt says of that.
    """

    calls: type[ToolCallParser] | None
    tools: Mapping[str, Mapping[str, Any]]
    call_limit: int | None
    reasoning: ReasoningFormat | None
    begins_in_reasoning: bool
    hold_reasoning: bool

    @classmethod
    def of(cls, service: WorkerService, body: AnswerBody, prompt: str) -> AnswerForm:
        """Raises ApiError 400 where the worker was not told how its model writes what is wanted."""
        arguments = service.server_args
        calls = reasoning = None
        if body.tools_to_call:
            if arguments.tool_call_parser is None:
                raise bad_request(
                    "tools: this worker does not know how its model calls tools; start it with "
                    '--tool-call-parser, or give tool_choice "none"',
                    "tools",
                )
            if body.grammar is not None:
                (field,) = body.grammars
                raise bad_request(
                    f"tools: an answer that keeps to {field} cannot call them; leave one of the "
                    'two out, or give tool_choice "none"',
                    "tools",
                )
            calls = TOOL_CALL_PARSERS[arguments.tool_call_parser]()
        if arguments.reasoning_parser is not None and body.separate_reasoning is not False:
            reasoning = REASONING_FORMATS[arguments.reasoning_parser]
        elif body.separate_reasoning:
            raise bad_request(
                "separate_reasoning: this worker does not know how its model reasons; start it "
                "with --reasoning-parser",
                "separate_reasoning",
            )
        return cls(
            calls,
            schemas(body.tools_to_call),
            1 if body.parallel_tool_calls is False else None,
            reasoning,
            reasoning is not None and _begins_inside(reasoning, body, prompt),
            body.stream_reasoning is False,
        )

    @property
    def is_text(self) -> bool:
        """Whether it has nothing but text."""
        return self.calls is None and self.reasoning is None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Those that the text must have although they are special."""
        tokens = self.calls.special_tokens if self.calls else ()
        return (*tokens, self.reasoning.start, self.reasoning.end) if self.reasoning else tokens

    def new_parser(self) -> AnswerParser:
        """For one answer."""
        reasoning = self.reasoning and ReasoningParser(self.reasoning, self.begins_in_reasoning)
        calls = self.calls and self.calls(self.tools, self.call_limit)
        return AnswerParser(reasoning, calls, hold_reasoning=self.hold_reasoning)


def _begins_inside(reasoning: ReasoningFormat, body: AnswerBody, prompt: str) -> bool:
    if body.grammar is not None:  # which an answer keeps to from its first token on
        return False
    begun = body.begun_answer
    if begun is not None:
        return begun.rfind(reasoning.start) > begun.rfind(reasoning.end)
    return reasoning.is_open_after(prompt)


def message_json(answer: Answer, form: AnswerForm) -> dict[str, Any]:
    """The message of a whole answer. Without any text beside something else it has none."""
    text = answer.text if not (answer.calls or answer.reasoning) else answer.text or None
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if form.reasoning is not None:
        message["reasoning_content"] = answer.reasoning or None
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.calls
        ]
    return message


def delta_json(delta: Delta) -> dict[str, Any]:
    """More of a message, as a stream has it."""
    match delta:
        case TextDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case CallDelta(index, arguments, None):
            return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
        case CallDelta(index, arguments, call_id, name):
            function = {"name": name, "arguments": arguments}
            call = {"index": index, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}


def finish_reason(output: TextOutput, has_calls: bool) -> str | None:
    """An answer that came to its end with calls ended for them."""
    reason = output.finish_reason
    return "tool_calls" if has_calls and reason == "stop" else reason
