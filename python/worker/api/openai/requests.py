"""From a checked body and a prompt to what the engine is asked."""

from __future__ import annotations

from ...tokenization.text_output import TextRequest
from ..service import WorkerService
from .chat_answer import AnswerForm
from .types import TextBody


def text_requests(
    service: WorkerService,
    body: TextBody,
    prompt: list[int],
    *,
    rid: str,
    param: str,
    form: AnswerForm | None = None,
) -> list[TextRequest]:
    """One request for each answer to make to `prompt`, which the field `param` of `body` gave.

    With a `form` they are held to it.

    Raises ApiError 400 if prompt and answer do not fit, or a token id is not in the vocabulary.
    """
    limit_name, limit = body.token_limit
    prompt = service.limits.fit_prompt(prompt, limit, param)
    if limit is not None:
        service.limits.check_answer_fits(len(prompt), limit, limit_name)
    if limit is None:
        limit = service.limits.room_after(len(prompt))
    sampling = body.for_engine(limit)
    shown_tokens = frozenset()
    grammar_field, otherwise_field = next(iter(body.grammars), None), None
    if form is not None:
        sampling = form.held(sampling)
        shown_tokens = service.tokenizer.ids_of(form.special_tokens)
        if form.calls is not None:
            otherwise_field = grammar_field if form.calls.or_schema else None
            grammar_field = "tools"
    service.limits.check_sampling(sampling)
    request = TextRequest(
        rid=rid,
        input_ids=prompt,
        sampling=sampling,
        stop_strings=body.stop,
        skip_special_tokens=body.skip_special_tokens,
        shown_tokens=shown_tokens,
        logprobs=body.logprob_options,
        grammar_field=grammar_field,
        otherwise_field=otherwise_field,
    )
    return request.samples(body.generated)
