"""Sampling parameters as a program gives them: SGLang's names, checked without pydantic."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from worker.messages import GrammarSpec, SamplingParams

_LARGEST = 2**31 - 1
_MOST_TOKENS = 1024  # named by one request
_TokenId = Annotated[int, Meta(ge=0, le=_LARGEST)]
_Bias = Annotated[float, Meta(ge=-100, le=100)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_StopString = Annotated[str, Meta(min_length=1)]


class SamplingOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How one answer is made; the same names and defaults as `sampling_params` of POST /generate.

    `max_new_tokens` None means as many as fit; 0 computes the prompt alone. `top_k` -1 means
    all tokens. `logit_bias` maps token ids to what is added to their logits. `n` is how many
    answers to make to each prompt. `json_schema` and `structural_tag` are JSON; the rule `root` of
    `ebnf` is the answer.
    `custom_params` are for a custom logit processor: what msgpack can hold.
    """

    max_new_tokens: Annotated[int, Meta(ge=0, le=_LARGEST)] | None = 128
    temperature: Annotated[float, Meta(ge=0, le=sys.float_info.max)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=_LARGEST)] = -1
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _StopString | list[_StopString] | None = None
    stop_token_ids: Annotated[list[_TokenId], Meta(max_length=_MOST_TOKENS)] | None = None
    ignore_eos: bool = False
    min_new_tokens: Annotated[int, Meta(ge=0, le=_LARGEST)] = 0
    frequency_penalty: _Penalty = 0.0
    presence_penalty: _Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] = 1.0
    logit_bias: Annotated[dict[_TokenId, _Bias], Meta(max_length=_MOST_TOKENS)] | None = None
    skip_special_tokens: bool = True
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    custom_params: dict[str, Any] | None = None

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> SamplingOptions:
        """Raises ValueError that names what is wrong."""
        try:
            options = msgspec.convert(given or {}, cls)
            msgspec.msgpack.encode(options.custom_params)  # for the other ranks, if there are any
        except (msgspec.ValidationError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"sampling_params: {error}") from None
        if options.top_k == 0:
            raise ValueError("sampling_params: top_k must be at least 1, or -1 for all tokens")
        if len(options.grammars) > 1:
            kinds = " and ".join(spec.kind for spec in options.grammars)
            raise ValueError(f"sampling_params: give one of {kinds}, not several")
        return options

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, whatever it was given as."""
        if isinstance(self.stop, str):
            return (self.stop,)
        return tuple(self.stop or ())

    @property
    def grammars(self) -> list[GrammarSpec]:
        """What the answer is held to: one at most."""
        return GrammarSpec.among(self.json_schema, self.regex, self.ebnf, self.structural_tag)

    @property
    def named_tokens(self) -> list[int]:
        """All token ids that the parameters name."""
        return [*(self.stop_token_ids or ()), *(self.logit_bias or ())]

    def for_engine(self, room: int) -> SamplingParams:
        """With an answer of at most `room` tokens. Raises ValueError if it has to be longer."""
        max_new_tokens = room if self.max_new_tokens is None else min(self.max_new_tokens, room)
        if self.min_new_tokens > max_new_tokens:
            raise ValueError(
                f"sampling_params: the answer can have at most {max_new_tokens} tokens, less than "
                f"min_new_tokens {self.min_new_tokens}"
            )
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            min_new_tokens=self.min_new_tokens,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=tuple((self.logit_bias or {}).items()),
            custom_params=self.custom_params,
            grammar=next(iter(self.grammars), None),
        )
