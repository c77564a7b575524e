"""The body of POST /generate: the fields and defaults of SGLang 0.4.3's native API."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, Discriminator, Tag

from ..messages import SamplingParams
from .fields import (
    LeastTokenCount,
    MinP,
    PenaltyFields,
    RequestIds,
    RequestModel,
    SampleCount,
    Seed,
    StopStrings,
    StopTokenIds,
    Temperature,
    TopK,
    TopP,
    described,
    only,
)
from .grammar_fields import GrammarFields
from .session_store import SessionParams


def _check_params(value: dict[str, Any]) -> dict[str, Any]:
    try:
        msgspec.msgpack.encode(value)
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(f"cannot be handed on: {error}") from error
    return value


CustomParams = Annotated[dict[str, Any], AfterValidator(_check_params)]


class SamplingFields(PenaltyFields, GrammarFields):
    """How one answer is made. Temperature 0 is greedy."""

    max_new_tokens: LeastTokenCount | None = 128
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = -1
    min_p: MinP = 0.0
    seed: Seed | None = None
    stop: StopStrings = ()
    stop_token_ids: StopTokenIds = ()
    ignore_eos: bool = False
    min_new_tokens: LeastTokenCount | None = 0
    skip_special_tokens: bool = True
    n: SampleCount | None = 1
    # The tokenizers of the Llama family put no spaces between special tokens: both values are one.
    spaces_between_special_tokens: bool = True

    custom_params: CustomParams | None = None

    def for_engine(self, max_new_tokens: int) -> SamplingParams:
        """With an answer of at most `max_new_tokens`."""
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            min_new_tokens=self.min_new_tokens or 0,
            custom_params=self.custom_params,
            grammar=self.grammar,
            **self.for_sampling,
        )


# The tags in <> are left out of error messages.
_one_or_list = Discriminator(lambda value: "<list>" if isinstance(value, list) else "<one>")
OneOrList = Annotated[
    Annotated[SamplingFields, Tag("<one>")] | Annotated[list[SamplingFields], Tag("<list>")],
    _one_or_list,
]
OneSessionOrList = Annotated[
    Annotated[SessionParams, Tag("<one>")] | Annotated[list[SessionParams], Tag("<list>")],
    _one_or_list,
]


class GenerateBody(RequestModel):
    """One prompt, or a list of them; exactly one of `text`, `input_ids` and `input_embeds`.

    `input_embeds` is here for the schema: the numbers are taken out of the body before.
    """

    text: Annotated[str | list[str] | None, described("a string or a list of strings")] = None
    input_ids: Annotated[
        list[int] | list[list[int]] | None,
        described("a list of token ids or a list of such lists"),
    ] = None
    input_embeds: list[list[float]] | list[list[list[float]]] | None = None
    sampling_params: OneOrList | None = None
    rid: RequestIds = None
    stream: bool = False
    log_metrics: bool = True
    session_params: OneSessionOrList | None = None
    custom_logit_processor: Annotated[
        str | list[str | None] | None, described("a string or a list of strings and nulls")
    ] = None

    # Log-probabilities: return_logprob turns them on, the next two mean nothing without it.
    return_logprob: Annotated[
        bool | list[bool] | None, described("a boolean or a list of booleans")
    ] = None
    logprob_start_len: Annotated[
        int | list[int] | None, described("an integer or a list of integers")
    ] = None
    top_logprobs_num: Annotated[
        int | list[int] | None, described("an integer or a list of integers")
    ] = None
    return_text_in_logprobs: bool = False
    return_hidden_states: bool = False

    image_data: Annotated[Any, only(None)] = None
    modalities: Annotated[Any, only(None)] = None
    lora_path: Annotated[Any, only(None)] = None
