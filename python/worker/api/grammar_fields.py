"""What answers can be held to, as the fields of both APIs say it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..messages import GrammarSpec
from .errors import from_validation_error
from .fields import RequestModel

ANY_OBJECT = GrammarSpec("json_schema", '{"type": "object"}')

_LONGEST = 1 << 20


def _check_json(value: str) -> str:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"must be JSON in a string ({error})") from error
    return value


class StructureFields(RequestModel):
    """What stands between `begin` and `end` is a value of the schema."""

    begin: str
    definition: dict[str, Any] = Field(alias="schema")
    end: str


class TagFormat(RequestModel):
    """Free text, in which each of `triggers` begins one of `structures`."""

    type: Literal["structural_tag"]
    structures: Annotated[list[StructureFields], Field(min_length=1)]
    triggers: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]

    @property
    def grammar(self) -> GrammarSpec:
        text = json.dumps(self.model_dump(by_alias=True), ensure_ascii=False)
        return GrammarSpec("structural_tag", text)


def _check_tag(value: str) -> str:
    try:
        TagFormat.model_validate_json(value)
    except ValidationError as error:
        reason = from_validation_error(error).message
        raise ValueError(f"must be a structural tag in JSON ({reason})") from error
    return value


GrammarText = Annotated[str, Field(max_length=_LONGEST)]
SchemaText = Annotated[GrammarText, AfterValidator(_check_json)]
TagText = Annotated[GrammarText, AfterValidator(_check_json), AfterValidator(_check_tag)]
SchemaName = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class GrammarFields(RequestModel):
    """SGLang's fields for grammars, of which a request has one at most."""

    json_schema: SchemaText | None = None
    regex: GrammarText | None = None
    ebnf: GrammarText | None = None
    structural_tag: TagText | None = None

    @property
    def grammars(self) -> dict[str, GrammarSpec]:
        """What was asked for, by field."""
        given = GrammarSpec.among(self.json_schema, self.regex, self.ebnf, self.structural_tag)
        return {spec.kind: spec for spec in given}

    @property
    def grammar(self) -> GrammarSpec | None:
        """What the answer is held to."""
        return next(iter(self.grammars.values()), None)

    @model_validator(mode="after")
    def _at_most_one(self) -> GrammarFields:
        names = list(self.grammars)
        if len(names) > 1:
            raise PydanticCustomError(
                "unsupported",
                "an answer can be held to one of {names}, not to several",
                {"names": " and ".join(names)},
            )
        return self


class PlainFormat(RequestModel):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]

    @property
    def grammar(self) -> GrammarSpec | None:
        return ANY_OBJECT if self.type == "json_object" else None


class SchemaFormat(RequestModel):
    """A JSON schema and its name. It is enforced, whatever `strict` says."""

    name: SchemaName
    description: str | None = None
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None

    @property
    def grammar(self) -> GrammarSpec:
        return GrammarSpec("json_schema", json.dumps(self.definition, ensure_ascii=False))


class ChatSchemaFormat(RequestModel):
    """As chats write it."""

    type: Literal["json_schema"]
    json_schema: SchemaFormat

    @property
    def grammar(self) -> GrammarSpec:
        return self.json_schema.grammar


class ResponseSchemaFormat(SchemaFormat):
    """As /v1/responses writes it."""

    type: Literal["json_schema"]


def _format_kind(value: Any) -> str:
    match value:
        case {"type": "json_schema"}:
            return "<schema>"
        case {"type": "structural_tag"}:
            return "<tag>"
    return "<plain>"


_PlainOrTag = Annotated[PlainFormat, Tag("<plain>")] | Annotated[TagFormat, Tag("<tag>")]
ChatFormat = Annotated[
    _PlainOrTag | Annotated[ChatSchemaFormat, Tag("<schema>")], Discriminator(_format_kind)
]
ResponseFormat = Annotated[
    _PlainOrTag | Annotated[ResponseSchemaFormat, Tag("<schema>")], Discriminator(_format_kind)
]
