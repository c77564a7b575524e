"""Tools, the choice among them, and calls of them: parts of OpenAI's bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from ..fields import RequestModel, only


class FunctionDefinition(RequestModel):
    """A function that the model may call. `parameters` are a JSON schema of an object."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_the_schema_of_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        schema = value or {}
        if schema.get("type", "object") != "object":
            raise ValueError('must be a JSON schema with "type": "object"')
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not all(
            isinstance(each, dict | bool) for each in properties.values()
        ):
            raise ValueError("must be a JSON schema, whose properties are an object of schemas")
        if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
            raise ValueError("must be a JSON schema, in which required is a list of names")
        return value

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """Without `parameters` there are none."""
        return self.parameters or {"type": "object", "properties": {}}

    @property
    def enforced_schema(self) -> dict[str, Any]:
        """The same for a grammar, which leaves nothing to be guessed."""
        if not self.parameters:
            return {**self.schema_of_arguments, "additionalProperties": False}
        return {"type": "object", **self.parameters}


class ToolDefinition(RequestModel):
    """Functions are the one kind of tool here."""

    type: Literal["function"]
    function: FunctionDefinition
    custom: Annotated[Any, only(None)] = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates know tools."""
        function: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        function["parameters"] = self.function.schema_of_arguments
        return {"type": "function", "function": function}


def check_names(names: list[str]) -> None:
    """Raises PydanticCustomError if one is there twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PydanticCustomError(
            "unsupported", "{name} is there more than once", {"name": repr(twice)}
        )


def _have_names_of_their_own(tools: list[ToolDefinition]) -> list[ToolDefinition]:
    check_names([tool.function.name for tool in tools])
    return tools


Tools = Annotated[
    list[ToolDefinition], Field(max_length=128), AfterValidator(_have_names_of_their_own)
]


def schemas(tools: Sequence[ToolDefinition]) -> dict[str, dict[str, Any]]:
    """The schema of the arguments of each, after its name."""
    return {tool.function.name: tool.function.schema_of_arguments for tool in tools}


class CalledFunction(RequestModel):
    """`arguments` are JSON, if the model wrote it well.

    `parsed_arguments` are what the client's `parse()` read in them, and sends again.
    """

    name: str
    arguments: str
    parsed_arguments: Any = None


class ToolCallMessage(RequestModel):
    """A call in a message of the assistant. `index` is what a stream's deltas have beside it, and
    what the client's `stream()` leaves in the message that it puts together.
    """

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None
