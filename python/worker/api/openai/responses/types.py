"""The bodies of /v1/responses: OpenAI's documented fields, and those of ours for sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from ....messages import GrammarSpec, LogprobOptions
from ...fields import RequestModel, TokenCount, only
from ...grammar_fields import ResponseFormat
from ..tool_choice import ResponseToolChoice, ToolChoice
from ..tool_types import FunctionDefinition, ToolDefinition, check_names
from ..types import AnswerBody, OtherPart, ReasoningEffort, ToolFields, TopCount
from .store import Item


def _check_storable(value: list[Any]) -> list[Any]:
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"must be possible to keep: {error}") from error
    return value


# What is kept as it came.
Notes = Annotated[list[Any], AfterValidator(_check_storable)]


class InputText(RequestModel):
    """What a user or a developer writes."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Annotated[Any, only(None)] = None


class OutputText(RequestModel):
    """What an assistant wrote. Annotations and log-probabilities are no part of a prompt.

    `parsed` is what the client's `parse()` read in it: it may come back, and is not kept.
    """

    type: Literal["output_text"]
    text: str
    annotations: Notes = Field(default_factory=list)
    logprobs: Notes | None = Field(default_factory=list)
    parsed: Annotated[Any, Field(exclude=True)] = None


def _part_kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "output_text":
        return "<output>"
    return "<other>" if isinstance(kind, str) and kind != "input_text" else "<input>"


Part = Annotated[
    Annotated[InputText, Tag("<input>")]
    | Annotated[OutputText, Tag("<output>")]
    | Annotated[OtherPart, Tag("<other>")],
    Discriminator(_part_kind),
]


def _other_than(known: str) -> Discriminator:
    """Tells what has the `known` type from what is refused by its own."""

    def kind(value: Any) -> str:
        given = value.get("type") if isinstance(value, dict) else None
        return "<other>" if isinstance(given, str) and given != known else f"<{known}>"

    return Discriminator(kind)


def _list_or_text(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<text>"


class Message(RequestModel):
    """A message of anybody; `id` and `status` are there when it was an item of an answer."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[list[Part], Tag("<list>")],
        Discriminator(_list_or_text),
    ]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    def item(self, key: str) -> Item:
        """As the API shows it; `key` makes an id for one that has none."""
        content = self.content
        if not isinstance(content, str):
            parts = [part.model_dump(exclude_none=True) for part in content]
        elif self.role == "assistant":
            parts = [output_text(content)]
        else:
            parts = [{"type": "input_text", "text": content}]
        name = {"id": f"msg_{key}", "status": "completed"}
        given = self.model_dump(exclude_none=True, exclude={"content"})
        return {**name, **given, "content": parts}


def output_text(text: str, logprobs: Sequence[Item] = ()) -> Item:
    """The part of a message that an assistant writes."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class ReasoningText(RequestModel):
    """A part of what an assistant thought."""

    type: Literal["reasoning_text"]
    text: str


class Reasoning(RequestModel):
    """How an assistant came to what follows it. A prompt has its text where the chat template shows
    the thoughts of earlier turns; summaries are kept, and no part of it.
    """

    type: Literal["reasoning"]
    id: str | None = None
    summary: Notes = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None

    def item(self, key: str) -> Item:
        """As the API shows it; `key` makes an id for one that has none."""
        return {"id": f"rs_{key}", **self.model_dump(exclude_none=True)}


class FunctionCall(RequestModel):
    """A call of a tool. `arguments` are JSON, if the model wrote it well.

    `parsed_arguments` are what the client's `parse()` read in them: they may come back, and are not
    kept. Its dumps write `async_` unless they are asked for aliases.
    """

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: str
    arguments: str
    parsed_arguments: Annotated[Any, Field(exclude=True)] = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    namespace: Annotated[Any, only(None)] = None
    caller: Annotated[Any, only(None, {"type": "direct"})] = None
    async_: Annotated[Any, only(None, False)] = Field(None, alias="async")

    def item(self, key: str) -> Item:
        """As the API shows it; `key` makes an id for one that has none."""
        name = {"id": f"fc_{key}", "status": "completed"}
        return {**name, **self.model_dump(exclude_none=True, by_alias=True)}


OutputPart = Annotated[
    Annotated[InputText, Tag("<input_text>")] | Annotated[OtherPart, Tag("<other>")],
    _other_than("input_text"),
]


class FunctionCallOutput(RequestModel):
    """What a call of a tool gave."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str
    output: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[list[OutputPart], Tag("<list>")],
        Discriminator(_list_or_text),
    ]
    name: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    namespace: Annotated[Any, only(None)] = None
    caller: Annotated[Any, only(None, {"type": "direct"})] = None

    def item(self, key: str) -> Item:
        """As the API shows it; `key` makes an id for one that has none."""
        name = {"id": f"fco_{key}", "status": "completed"}
        return {**name, **self.model_dump(exclude_none=True)}


class ItemReference(RequestModel):
    """Stands for an item of a response that is stored."""

    type: Literal["item_reference"] | None = None
    id: str


class OtherItem(RequestModel):
    """Calls of other tools, their outputs and the like, whatever their fields."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[Any, only()]


def _item_kind(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else "message"
    if kind in (None, "message") and isinstance(item, dict) and "role" not in item and "id" in item:
        return "<item_reference>"
    known = ("message", "reasoning", "function_call", "function_call_output", "item_reference")
    return f"<{kind}>" if kind in known else "<other>"


InputItem = Annotated[
    Annotated[Message, Tag("<message>")]
    | Annotated[Reasoning, Tag("<reasoning>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[FunctionCallOutput, Tag("<function_call_output>")]
    | Annotated[ItemReference, Tag("<item_reference>")]
    | Annotated[OtherItem, Tag("<other>")],
    Discriminator(_item_kind),
]


class TextConfig(RequestModel):
    """What an answer's text looks like."""

    format: ResponseFormat | None = None
    verbosity: Annotated[Any, only(None, "medium")] = None


class ReasoningConfig(RequestModel):
    """How long to think. What was thought is shown in full: nobody summarizes it."""

    effort: ReasoningEffort | None = None
    summary: Annotated[Any, only(None)] = None
    generate_summary: Annotated[Any, only(None)] = None
    context: Annotated[Any, only(None, "auto")] = None
    mode: Annotated[Any, only(None, "standard")] = None


class FunctionTool(FunctionDefinition):
    """A function that the model may call."""

    type: Literal["function"]
    is_async: Annotated[Any, only(None, False)] = Field(None, alias="async")
    defer_loading: Annotated[Any, only(None, False)] = None
    allowed_callers: Annotated[Any, only(None, ["direct"])] = None
    output_schema: Annotated[Any, only(None)] = None

    def shown(self) -> Item:
        """As an answer repeats it."""
        always = {"parameters": self.parameters, "strict": self.strict}
        return {**self.model_dump(exclude_none=True, by_alias=True), **always}


class OtherTool(RequestModel):
    """Tools that a server has itself, whatever their fields."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[Any, only()]


Tool = Annotated[
    Annotated[FunctionTool, Tag("<function>")] | Annotated[OtherTool, Tag("<other>")],
    _other_than("function"),
]


class PromptBody(ToolFields):
    """What a prompt is made of.

    `instructions` come first, then the conversation up to `previous_response_id`, then `input`.
    """

    model: str = ""
    input: (
        Annotated[
            Annotated[str, Tag("<text>")] | Annotated[list[InputItem], Tag("<list>")],
            Discriminator(_list_or_text),
        ]
        | None
    ) = None
    instructions: str | None = None
    previous_response_id: str | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"
    # Further variables for the chat template: an addition of ours.
    chat_template_kwargs: dict[str, Any] | None = None

    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ResponseToolChoice | None = None
    conversation: Annotated[Any, only(None)] = None

    @field_validator("tools")
    @classmethod
    def _have_names_of_their_own(cls, value: list[Tool] | None) -> list[Tool] | None:
        check_names([tool.name for tool in value or () if isinstance(tool, FunctionTool)])
        return value

    @property
    def functions(self) -> list[FunctionTool]:
        """The `tools`: there are no others that are taken."""
        return [tool for tool in self.tools or () if isinstance(tool, FunctionTool)]

    @property
    def known_tools(self) -> Sequence[ToolDefinition]:
        return [ToolDefinition(type="function", function=tool) for tool in self.functions]

    @property
    def choice(self) -> ToolChoice:
        return ToolChoice.of(self.tool_choice)


class InputTokensBody(PromptBody):
    """The body of POST /v1/responses/input_tokens."""

    personality: Annotated[Any, only(None)] = None


class ResponseBody(PromptBody, AnswerBody):
    """The body of POST /v1/responses. Without a limit the answer may fill the context."""

    max_output_tokens: TokenCount | None = None
    store: bool | None = True
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: TopCount | None = None
    # It bounds the calls of tools that a server has itself: here there are none.
    max_tool_calls: TokenCount | None = None

    # What OpenAI's own platform does with a request, and this server does not.
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Annotated[Any, only(None, "in_memory")] = None
    prompt_cache_options: Annotated[Any, only(None)] = None
    access_programs: Annotated[Any, only(None)] = None
    background: Annotated[Any, only(False, None)] = None
    context_management: Annotated[Any, only(None, [])] = None
    image: Annotated[Any, only(None)] = None
    moderation: Annotated[Any, only(None)] = None
    prompt: Annotated[Any, only(None)] = None

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value and not others.data.get("include"):
            raise PydanticCustomError(
                "unsupported", "only to be given when include has message.output_text.logprobs"
            )
        return value

    @property
    def grammars(self) -> dict[str, GrammarSpec]:
        """With that of `text.format`."""
        wanted = self.text and self.text.format and self.text.format.grammar
        return super().grammars | ({"text.format": wanted} if wanted else {})

    @property
    def text_format(self) -> dict[str, Any]:
        """As an answer repeats it."""
        if self.text is None or self.text.format is None:
            return {"type": "text"}
        return self.text.format.model_dump(by_alias=True, exclude_none=True)

    @property
    def token_limit(self) -> tuple[str, int | None]:
        return "max_output_tokens", self.max_output_tokens

    @property
    def logprob_options(self) -> LogprobOptions | None:
        """Those of the answer."""
        return LogprobOptions(top=self.top_logprobs or 0) if self.include else None


class RetrieveQuery(RequestModel):
    """What may stand behind the address of a response: nothing that changes the answer."""

    include: Annotated[list[str], only([])] = Field(default_factory=list)
    stream: Annotated[bool, only(False)] = False
    include_obfuscation: Annotated[bool, only(False)] = False
    starting_after: Annotated[int | None, only(None)] = None


class ItemsQuery(RequestModel):
    """Which items of a response to list: `limit` of them, behind the one called `after`."""

    after: str | None = None
    include: Annotated[list[str], only([])] = Field(default_factory=list)
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
