"""The bodies of the OpenAI API: its documented fields, and those that SGLang adds for sampling.

What this version does not act on takes its neutral value alone. `model` may be any name: behind a
router clients use names that the worker does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ...messages import GrammarSpec, LogprobOptions, SamplingParams
from ..fields import (
    LeastTokenCount,
    MinP,
    PenaltyFields,
    RequestModel,
    SampleCount,
    Seed,
    StopStrings,
    StopTokenIds,
    Temperature,
    TokenCount,
    TopK,
    TopP,
    described,
    only,
)
from ..grammar_fields import ChatFormat, GrammarFields
from .tool_choice import ChatToolChoice, ToolChoice
from .tool_types import ToolCallMessage, ToolDefinition, Tools

# OpenAI's limit in chats; in completions it allows 5.
TopCount = Annotated[int, Field(ge=0, le=20)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(RequestModel):
    """How events look. They are not padded against guesses from their sizes."""

    include_obfuscation: Annotated[Any, only(False, None)] = None


class CompletionStreamOptions(StreamOptions):
    """`include_usage` adds a last chunk with the usage."""

    include_usage: bool = False


class TextBody(PenaltyFields, GrammarFields, ABC):
    """What all routes take that make text: how it is sampled, and notes of the client's own.

    A route says by `token_limit` and `samples` how long and how many its answers are.
    """

    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: StopStrings = ()
    seed: Seed | None = None
    temperature: Temperature | None = 1.0
    top_p: TopP | None = 1.0

    # SGLang's additions.
    top_k: TopK = -1
    min_p: MinP = 0.0
    stop_token_ids: StopTokenIds = ()
    ignore_eos: bool = False
    min_tokens: LeastTokenCount | None = 0
    skip_special_tokens: bool = True
    # The tokenizers of the Llama family put no spaces between special tokens: both values are one.
    spaces_between_special_tokens: bool = True

    # Notes of the client's own, which change no answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    # There is one tier; an answer to a chat says so, as OpenAI's does.
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None

    lora_path: Annotated[Any, only(None)] = None

    @field_validator("stream_options")
    @classmethod
    def _only_in_a_stream(
        cls, value: StreamOptions | None, others: ValidationInfo
    ) -> StreamOptions | None:
        if value is not None and not others.data.get("stream"):
            raise PydanticCustomError("unsupported", "only to be given when stream is true")
        return value

    @property
    @abstractmethod
    def token_limit(self) -> tuple[str, int | None]:
        """How long an answer may be, after the name of the field that says so."""

    @property
    def samples(self) -> int:
        """How many answers to give to each prompt."""
        return 1

    @property
    def generated(self) -> int:
        """How many answers to make to each prompt, for the best of them to be given."""
        return self.samples

    @property
    def logprob_options(self) -> LogprobOptions | None:
        """Which log-probabilities the engine is to compute."""
        return None

    def for_engine(self, max_new_tokens: int) -> SamplingParams:
        """With an answer of at most `max_new_tokens`."""
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            min_new_tokens=self.min_tokens or 0,
            grammar=self.grammar,
            **self.for_sampling,
        )


class ToolFields(RequestModel, ABC):
    """What conversations say of the tools that their answers may call."""

    parallel_tool_calls: bool | None = True

    @property
    @abstractmethod
    def known_tools(self) -> Sequence[ToolDefinition]:
        """All that are given."""

    @property
    @abstractmethod
    def choice(self) -> ToolChoice:
        """Which of them may be called, and whether one must be."""

    @property
    def tools_to_call(self) -> Sequence[ToolDefinition]:
        """Those that may be called: the model is told of no others."""
        names = self.choice.names
        return [t for t in self.known_tools if names is None or t.function.name in names]


class AnswerBody(ToolFields, TextBody):
    """What conversations take whose answers are text, reasoning and calls of tools."""

    # SGLang's additions: whether the reasoning is apart from the text, and comes as it is written.
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = True

    @property
    def begun_answer(self) -> str | None:
        """The beginning of the answer, where it is given."""
        return None


class CommonBody(TextBody):
    """What both kinds of completions take."""

    max_tokens: TokenCount | None = None
    stream_options: CompletionStreamOptions | None = None
    n: SampleCount | None = 1
    response_format: ChatFormat | None = None

    @property
    def grammars(self) -> dict[str, GrammarSpec]:
        """With that of `response_format`."""
        wanted = self.response_format and self.response_format.grammar
        return super().grammars | ({"response_format": wanted} if wanted else {})

    @property
    def token_limit(self) -> tuple[str, int | None]:
        return "max_tokens", self.max_tokens

    @property
    def samples(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(CommonBody):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        str | list[str] | list[int] | list[list[int]],
        described("a string, a list of strings, a list of token ids or a list of such lists"),
    ]
    max_tokens: LeastTokenCount | None = 16
    best_of: SampleCount | None = None
    echo: bool | None = False
    logprobs: TopCount | None = None
    suffix: Annotated[Any, only(None)] = None

    @field_validator("best_of")
    @classmethod
    def _chooses_among_whole_answers(cls, value: int | None, others: ValidationInfo) -> int | None:
        samples = others.data.get("n") or 1
        if value is not None and value < samples:
            raise ValueError(f"must be at least n, which is {samples}")
        if value is not None and value > samples and others.data.get("stream"):
            raise ValueError("cannot be more than n in a stream")
        return value

    @property
    def generated(self) -> int:
        """`best_of`, the likeliest of which are given, or `n`."""
        return self.best_of or self.samples

    @property
    def logprob_options(self) -> LogprobOptions | None:
        """With those of the prompt if it is part of the text; for a choice among answers, too."""
        if self.logprobs is not None:
            return LogprobOptions(prompt_start=0 if self.echo else None, top=self.logprobs)
        return LogprobOptions() if self.generated > self.samples else None


class TextPart(RequestModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _part_kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return "<other>" if isinstance(kind, str) and kind != "text" else "<text>"


class OtherPart(RequestModel):
    """Images, sounds and files, whatever their fields."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[Any, only()]


ContentPart = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[OtherPart, Tag("<other>")],
    Discriminator(_part_kind),
]


def _content_kind(content: Any) -> str:
    return "<parts>" if isinstance(content, list) else "<text>"


class ChatMessage(RequestModel):
    """One message of a conversation. Several parts of text are joined by line ends.

    Only a message that calls tools may have no content. A tool's result names the call that it is
    of; SGLang allows that to be left out.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
                {
                    "required": ["tool_calls"],
                    "properties": {
                        "role": {"const": "assistant"},
                        "tool_calls": {"type": "array", "minItems": 1},
                    },
                },
            ]
        }
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[ToolCallMessage] | None = None
    content: Annotated[
        Annotated[
            Annotated[str, Tag("<text>")] | Annotated[list[ContentPart], Tag("<parts>")],
            Discriminator(_content_kind),
        ]
        | None,
        Field(validate_default=True),
    ] = None
    name: str | None = None
    tool_call_id: str | None = None
    # What an answer of the assistant had.
    reasoning_content: str | None = None
    refusal: Annotated[Any, only(None)] = None
    audio: Annotated[Any, only(None)] = None
    annotations: Annotated[Any, only(None, [])] = None
    function_call: Annotated[Any, only(None)] = None
    # What the client's parse() read in the content.
    parsed: Any = None

    @field_validator("content")
    @classmethod
    def _may_be_missing_beside_calls(cls, value: Any, others: ValidationInfo) -> Any:
        if value is None and not others.data.get("tool_calls"):
            raise PydanticCustomError("missing", "this field is required")
        return value

    @field_validator("tool_calls", "tool_call_id", "reasoning_content")
    @classmethod
    def _belongs_to_the_role(cls, value: Any, others: ValidationInfo) -> Any:
        role = "tool" if others.field_name == "tool_call_id" else "assistant"
        if value and others.data.get("role", role) != role:
            raise PydanticCustomError(
                "unsupported", "only to be given in messages of the role {role}", {"role": role}
            )
        return value

    @property
    def text(self) -> str | None:
        """The content as one text, if there is any."""
        if self.content is None or isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))


class ChatBody(CommonBody, AnswerBody):
    """The body of POST /v1/chat/completions. Without a limit the answer may fill the context."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    # Further variables for the chat template, such as enable_thinking.
    chat_template_kwargs: dict[str, Any] | None = None
    # The last message is the beginning of the answer.
    continue_final_message: bool = False

    # What OpenAI's own platform does with a request, and this server does not.
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Annotated[Any, only(None, "in_memory")] = None
    prompt_cache_options: Annotated[Any, only(None)] = None
    moderation: Annotated[Any, only(None)] = None
    store: Annotated[Any, only(False, None)] = None
    logprobs: bool | None = False
    top_logprobs: TopCount | None = None
    tools: Tools | None = None
    tool_choice: ChatToolChoice | None = None
    functions: Annotated[Any, only(None, [])] = None
    function_call: Annotated[Any, only(None, "none")] = None
    modalities: Annotated[Any, only(None, ["text"])] = None
    audio: Annotated[Any, only(None)] = None
    prediction: Annotated[Any, only(None)] = None
    reasoning_effort: ReasoningEffort | None = None
    verbosity: Annotated[Any, only(None)] = None
    web_search_options: Annotated[Any, only(None)] = None

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value and not others.data.get("logprobs"):
            raise PydanticCustomError("unsupported", "only to be given when logprobs is true")
        return value

    @property
    def known_tools(self) -> Sequence[ToolDefinition]:
        return self.tools or ()

    @property
    def choice(self) -> ToolChoice:
        return ToolChoice.of(self.tool_choice)

    @property
    def begun_answer(self) -> str | None:
        """The last message, where the answer goes on with it."""
        return self.messages[-1].text or "" if self.continue_final_message else None

    @property
    def logprob_options(self) -> LogprobOptions | None:
        """Those of the answer."""
        return LogprobOptions(top=self.top_logprobs or 0) if self.logprobs else None

    @property
    def token_limit(self) -> tuple[str, int | None]:
        """`max_completion_tokens` is the newer name, and counts where both are given."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().token_limit
