"""From a call of POST /generate to what the engine is asked."""

from __future__ import annotations

import uuid

from ..tokenization.native_answer import LogprobWish, one_each
from ..tokenization.text_output import TextRequest
from .errors import bad_request
from .http_exchange import MAX_BODY_BYTES
from .native_prompts import GenerateCall
from .native_types import GenerateBody, SamplingFields
from .prompt_limits import check_answers
from .service import WorkerService


def text_requests(service: WorkerService, call: GenerateCall) -> list[TextRequest]:
    """One for each answer, those to the same prompt one after the other.

    Raises ApiError 400 or NativeFieldError if something does not fit.
    """
    body, prompts = call.body, call.prompts
    samplings = one_each("sampling_params", body.sampling_params, SamplingFields(), len(prompts))
    rids = one_each("rid", body.rid, None, len(prompts))
    if isinstance(body.rid, str) and len(prompts) > 1:
        raise bad_request("rid must be a list when there are several prompts", "rid")
    wishes = LogprobWish.each(
        body.return_logprob, body.logprob_start_len, body.top_logprobs_num, len(prompts)
    )
    processors = _processors(service, body, samplings)
    counts = {sampling.n or 1 for sampling in samplings}
    if len(counts) > 1:
        raise bad_request("n must be the same for all prompts", "sampling_params")
    (count,) = counts
    check_answers(len(prompts), count, "sampling_params.n")
    requests = []
    for prompt, sampling, rid, wish, processor in zip(
        prompts, samplings, rids, wishes, processors, strict=True
    ):
        _check_needs_of_text(service, sampling)
        token_ids = service.limits.fit_prompt(
            prompt.token_ids, sampling.max_new_tokens, call.prompt_field
        )
        room = service.limits.room_after(len(token_ids))
        limit = room if sampling.max_new_tokens is None else min(sampling.max_new_tokens, room)
        params = sampling.for_engine(limit)
        service.limits.check_sampling(params, prefix="sampling_params.", least="min_new_tokens")
        request = TextRequest(
            rid=rid or uuid.uuid4().hex,
            input_ids=token_ids,
            sampling=params,
            stop_strings=sampling.stop,
            skip_special_tokens=sampling.skip_special_tokens,
            measured=body.log_metrics,
            logprobs=wish and wish.options(len(token_ids)),
            return_hidden_states=body.return_hidden_states
            or service.server_args.return_hidden_states,
            custom_logit_processor=processor,
            input_embeds=prompt.embeds and prompt.embeds.last(len(token_ids)),
            grammar_field=params.grammar and f"sampling_params.{params.grammar.kind}",
        )
        _check_embeds(request, count)
        requests += request.samples(count)
    return requests


def _processors(
    service: WorkerService, body: GenerateBody, samplings: list[SamplingFields]
) -> list[str | None]:
    """One for each prompt. Raises ApiError 400 if they are not allowed, or parameters have none."""
    name = "custom_logit_processor"
    processors = one_each(name, body.custom_logit_processor, None, len(samplings))
    if any(processors) and not service.server_args.enable_custom_logit_processor:
        raise bad_request(
            f"{name}: this worker was started without --enable-custom-logit-processor, and runs no "
            "code of its clients",
            name,
        )
    if not any(processors) and any(sampling.custom_params for sampling in samplings):
        raise bad_request(
            f"sampling_params.custom_params: they mean nothing without a {name}",
            "sampling_params.custom_params",
        )
    return processors


def _check_needs_of_text(service: WorkerService, sampling: SamplingFields) -> None:
    if service.loaded_tokenizer is not None:
        return
    why = "this worker was started with --skip-tokenizer-init, and has no text"
    if sampling.stop:
        name = "sampling_params.stop"
        raise bad_request(f"{name}: {why} to stop at; use stop_token_ids", name)
    for field in sampling.grammars:
        name = f"sampling_params.{field}"
        raise bad_request(f"{name}: {why} that could be held to it", name)


def _check_embeds(request: TextRequest, samples: int) -> None:
    """What a prompt of embeddings cannot have: tokens, and more samples than can be sent on."""
    if request.input_embeds is None:
        return
    if request.logprobs is not None and request.logprobs.prompt_start is not None:
        raise bad_request(
            "logprob_start_len: input_embeds have no tokens that could have log-probabilities; "
            "leave it out, or use -1",
            "logprob_start_len",
        )
    size = samples * len(request.input_embeds.rows)
    if size > MAX_BODY_BYTES:
        raise bad_request(
            f"n: the input_embeds of {samples} samples are {size} bytes, and can be at most "
            f"{MAX_BODY_BYTES}",
            "sampling_params.n",
        )
