"""Field types that both APIs share: ranges are checked here, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from .errors import shown

_LONGEST_STOP = 1024
_MOST_STOPS = 64
# Items that any list may have, but for one of numbers: each becomes objects of some size.
MOST_ITEMS = 65_536
# Every request with penalties takes the GPU memory of the longest such list.
_MOST_TOKENS = 1024


def _bound_lists(schema: Any) -> None:
    """Have every list in it end at the first mistake, and after MOST_ITEMS."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        if kind in ("list", "tuple"):
            schema["fail_fast"] = True
        if kind == "list" and schema.get("items_schema", {}).get("type") not in ("int", "float"):
            schema.setdefault("max_length", MOST_ITEMS)
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for each in schema:
            _bound_lists(each)


class RequestModel(BaseModel):
    """Refuses unknown fields and values of another type than the field's.

    A list is refused at its first mistake, or if it is very long: what is wrong must not hold up
    the event loop for longer than what is right, nor take all memory.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _bound_lists(schema)
        return schema


@dataclass(frozen=True)
class _Only:
    """Takes the `neutral` values, and says in the schema that it does."""

    neutral: tuple[Any, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": list(self.neutral)} if self.neutral else {"not": {}}

    def _check(self, value: Any) -> Any:
        for allowed in self.neutral:
            if value == allowed and isinstance(value, bool) == isinstance(allowed, bool):
                return value
        raise PydanticCustomError(
            "unsupported",
            "{value} is not supported by this version; leave the field out",
            {"value": shown(value)},
        )


def only(*neutral: Any) -> _Only:
    """For documented fields that have no effect here: they take the `neutral` values alone."""
    return _Only(neutral)


def refused(reason: str) -> AfterValidator:
    """For fields that other models take; `reason` says what is to be given instead."""

    def check(value: Any) -> None:
        if value is not None:
            raise PydanticCustomError("unsupported", "{reason}", {"reason": reason})

    return AfterValidator(check)


def described(description: str) -> WrapValidator:
    """For unions: errors say what the field takes, not why each member did not fit."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            if any(each["type"] == "too_long" for each in error.errors(include_url=False)):
                raise ValueError(f"must have at most {MOST_ITEMS} items") from error
            raise PydanticCustomError(
                "described", "must be {description}", {"description": description}
            ) from error

    return WrapValidator(check)


def _check_top_k(value: int) -> int:
    if value != -1 and value < 1:
        raise ValueError("must be at least 1, or -1 for all tokens")
    return value


def _as_tuple(value: Any) -> Any:
    """One of something, or a list, as a tuple; None as none."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(value)
    return (value,)


# Ids are remembered for a while, and shown in logs.
_RequestId = Annotated[str, Field(max_length=256)]
RequestIds = Annotated[
    _RequestId | list[_RequestId] | None,
    described("a string or a list of strings, of at most 256 characters"),
]
Temperature = Annotated[float, Field(ge=0)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(le=2**31 - 1), AfterValidator(_check_top_k)]
MinP = Annotated[float, Field(ge=0, le=1)]
# As many samples of one prompt as OpenAI makes.
SampleCount = Annotated[int, Field(ge=1, le=128)]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
StopString = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]
StopStrings = Annotated[
    tuple[StopString, ...],
    Field(max_length=_MOST_STOPS),
    BeforeValidator(_as_tuple, json_schema_input_type=StopString | list[StopString] | None),
]
StopTokenIds = Annotated[
    tuple[TokenId, ...],
    Field(max_length=_MOST_TOKENS),
    BeforeValidator(_as_tuple, json_schema_input_type=TokenId | list[TokenId] | None),
]
LeastTokenCount = Annotated[int, Field(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=2)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=_MOST_TOKENS),
]


class PenaltyFields(RequestModel):
    """What changes logits before a token is chosen. `logit_bias` goes from token ids to values."""

    frequency_penalty: Penalty | None = 0.0
    presence_penalty: Penalty | None = 0.0
    repetition_penalty: RepetitionPenalty | None = 1.0
    logit_bias: LogitBias | None = None

    @property
    def for_sampling(self) -> dict[str, Any]:
        """As fields of `SamplingParams`."""
        repetition = self.repetition_penalty
        bias = self.logit_bias or {}
        return {
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "repetition_penalty": 1.0 if repetition is None else repetition,
            "logit_bias": tuple((int(token), value) for token, value in bias.items()),
        }
