"""How the answers of a chat are read and told: text, reasoning and calls of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ...messages import Reasoning, SamplingParams
from ...parsers.answer_parser import AnswerParser
from ...parsers.deltas import Answer, CallDelta, Delta, ReasoningDelta, TextDelta
from ...parsers.reasoning_parser import ReasoningFormat, ReasoningParser
from ...parsers.registry import REASONING_FORMATS
from ...tokenization.text_output import TextOutput
from ..errors import bad_request
from ..service import WorkerService
from .call_form import CallForm
from .types import AnswerBody


@dataclass(frozen=True)
class AnswerForm:
    """What the answers of one call are made of, besides text.

    `begins_in_reasoning` is what the prompt says of that. `free_reasoning` is what may come before
    an answer keeps to a grammar; where it stays in the text, the grammar holds all of that.
    """

    calls: CallForm | None
    reasoning: ReasoningFormat | None
    begins_in_reasoning: bool
    hold_reasoning: bool
    free_reasoning: Reasoning | None

    @classmethod
    def of(cls, service: WorkerService, body: AnswerBody, prompt: str) -> AnswerForm:
        """Raises ApiError 400 where the worker was not told how its model writes what is wanted."""
        arguments = service.server_args
        calls = CallForm.of(body, arguments)
        hold = body.stream_reasoning is False
        if body.separate_reasoning and arguments.reasoning_parser is None:
            raise bad_request(
                "separate_reasoning: this worker does not know how its model reasons; start it "
                "with --reasoning-parser",
                "separate_reasoning",
            )
        if body.separate_reasoning is False or arguments.reasoning_parser is None:
            return cls(calls, None, False, hold, None)
        form = REASONING_FORMATS[arguments.reasoning_parser]
        is_open, is_over = _place_in_reasoning(form, body, prompt)
        free = None if is_over else Reasoning(form.start, form.end, is_open)
        return cls(calls, form, is_open, hold, free)

    @property
    def is_text(self) -> bool:
        """Whether it has nothing but text."""
        return self.calls is None and self.reasoning is None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Those that the text must have although they are special."""
        tokens = self.calls.parser.special_tokens if self.calls else ()
        return (*tokens, self.reasoning.start, self.reasoning.end) if self.reasoning else tokens

    def new_parser(self) -> AnswerParser:
        """For one answer."""
        reasoning = self.reasoning and ReasoningParser(self.reasoning, self.begins_in_reasoning)
        calls = self.calls and self.calls.new_parser()
        return AnswerParser(reasoning, calls, hold_reasoning=self.hold_reasoning)

    def held(self, sampling: SamplingParams) -> SamplingParams:
        """With what the answer is held to, which is what its body says unless it is calls."""
        grammar = self.calls.grammar if self.calls else sampling.grammar
        reasoning = self.free_reasoning if grammar else None
        return msgspec.structs.replace(sampling, grammar=grammar, reasoning=reasoning)

    def finish_reason(self, output: TextOutput, has_calls: bool) -> str | None:
        """An answer that came to its end with calls ended for them, unless its client named one."""
        reason = output.finish_reason
        for_calls = has_calls and self.calls is not None and not self.calls.is_forced
        return "tool_calls" if for_calls and reason == "stop" else reason


def _place_in_reasoning(form: ReasoningFormat, body: AnswerBody, prompt: str) -> tuple[bool, bool]:
    """Whether an answer begins inside of the reasoning, and whether behind it."""
    begun = body.begun_answer
    if begun is None:
        return form.is_open_after(prompt), form.is_over_after(prompt)
    is_open = begun.rfind(form.start) > begun.rfind(form.end)
    return is_open, not is_open


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
