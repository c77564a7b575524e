"""Which tools an answer may call, and whether it must: `tool_choice` as each route writes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ..fields import RequestModel, only

Word = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class ToolChoice:
    """`names` are the tools that may be called; None are all. `is_named`: the one was asked for."""

    must_call: bool = False
    names: tuple[str, ...] | None = None
    is_named: bool = False

    @classmethod
    def of(cls, value: Word | ChoiceOfNames | None) -> ToolChoice:
        """What a body's `tool_choice` means."""
        if isinstance(value, ChoiceOfNames):
            return value.choice
        return cls(value == "required", () if value == "none" else None)


class ChoiceOfNames(RequestModel, ABC):
    """A choice that says which tools."""

    @property
    @abstractmethod
    def choice(self) -> ToolChoice:
        """What it means."""


def _named(name: str) -> ToolChoice:
    return ToolChoice(must_call=True, names=(name,), is_named=True)


# ===== as chats write it =====


class FunctionName(RequestModel):
    """A function of `tools`."""

    name: str


class ToolReference(RequestModel):
    """One of `tools`, in part as they have it."""

    type: Literal["function"]
    function: FunctionName


class NamedTool(ToolReference, ChoiceOfNames):
    """The one function to be called."""

    custom: Annotated[Any, only(None)] = None

    @property
    def choice(self) -> ToolChoice:
        return _named(self.function.name)


class ToolSet(RequestModel):
    """Some of `tools`."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolReference], Field(min_length=1)]


class AllowedTools(ChoiceOfNames):
    """Those that can be called."""

    type: Literal["allowed_tools"]
    allowed_tools: ToolSet

    @property
    def choice(self) -> ToolChoice:
        names = tuple(tool.function.name for tool in self.allowed_tools.tools)
        return ToolChoice(self.allowed_tools.mode == "required", names)


# ===== as /v1/responses writes it =====


class FunctionReference(RequestModel):
    """One of `tools`, in part as they have it."""

    type: Literal["function"]
    name: str


class NamedFunction(FunctionReference, ChoiceOfNames):
    """The one function to be called."""

    @property
    def choice(self) -> ToolChoice:
        return _named(self.name)


class AllowedFunctions(ChoiceOfNames):
    """Those that can be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionReference], Field(min_length=1)]

    @property
    def choice(self) -> ToolChoice:
        return ToolChoice(self.mode == "required", tuple(tool.name for tool in self.tools))


def shown_choice(value: Word | ChoiceOfNames | None) -> Any:
    """As an answer repeats it."""
    return value.model_dump() if isinstance(value, ChoiceOfNames) else value or "auto"


def _kind(value: Any) -> str:
    if not isinstance(value, dict):
        return "<word>"
    return "<allowed>" if value.get("type") == "allowed_tools" else "<named>"


ChatToolChoice = Annotated[
    Annotated[Word, Tag("<word>")]
    | Annotated[NamedTool, Tag("<named>")]
    | Annotated[AllowedTools, Tag("<allowed>")],
    Discriminator(_kind),
]
ResponseToolChoice = Annotated[
    Annotated[Word, Tag("<word>")]
    | Annotated[NamedFunction, Tag("<named>")]
    | Annotated[AllowedFunctions, Tag("<allowed>")],
    Discriminator(_kind),
]
