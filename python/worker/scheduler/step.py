"""One step of the engine: which requests decode, which prompts are prefilled and how far."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..attention.batch import GivenEmbeddings
from ..cache.kv_cache import KVCache, Sequence
from ..runtime.step_input import StepInput, query_starts
from ..sampling.masks import TokenMasks
from ..sampling.penalties import Penalties
from ..sampling.table import SamplingRow
from .details import Wish, concatenated, new_token_scoring, prompt_scoring, state_rows
from .embedding_request import EmbeddingRequest
from .request import Request


@dataclass(frozen=True)
class PrefillChunk:
    """Tokens [start, end) of a request's text are computed in this step.

    `forced`: of a request that runs, upon which its grammar forced them, or for whose last token
    another one is drawn behind it.
    """

    request: Request
    start: int
    end: int
    forced: bool = False

    @property
    def is_last(self) -> bool:
        return self.end == self.request.length

    @property
    def gives_token(self) -> bool:
        """Whether the request's next token is drawn behind it."""
        return self.is_last and not self.request.is_prompt_only

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Step:
    """Requests that decode their last token, and chunks of prompts. Not both are empty.

    shared_lens: [decodes + prefills] int32, see `StepInput`; masks: see there
    """

    decodes: list[Request]
    prefills: list[PrefillChunk]
    shared_lens: np.ndarray | None = None
    masks: TokenMasks | None = None

    @property
    def requests(self) -> list[Request]:
        return self.decodes + [chunk.request for chunk in self.prefills]

    @cached_property
    def sampled(self) -> list[Request]:
        """The requests that get a token from this step, in the order of its logits; to be asked for
        before the step has been accounted for.
        """
        return self.decodes + [chunk.request for chunk in self.prefills if chunk.gives_token]

    @property
    def is_forced(self) -> bool:
        """Whether there are chunks, and all of them are of requests that run."""
        return bool(self.prefills) and all(chunk.forced for chunk in self.prefills)

    @property
    def prompts_ended(self) -> list[Request]:
        """The requests that end with this step, without a token: their prompt is computed."""
        chunks = (chunk for chunk in self.prefills if chunk.is_last)
        return [chunk.request for chunk in chunks if not chunk.gives_token]

    @cached_property
    def wishes(self) -> list[Wish]:
        """What is found out beside tokens, as long as the step has not been accounted for."""
        decodes = [
            request.details.wish(i, request.length - 1, request.length, gives_token=True)
            for i, request in enumerate(self.decodes)
            if request.details is not None
        ]
        return decodes + [
            chunk.request.details.wish(i, chunk.start, chunk.end, gives_token=chunk.gives_token)
            for i, chunk in enumerate(self.prefills, len(self.decodes))
            if chunk.request.details is not None
        ]


def sequence_of(request: Request) -> Sequence:
    """The slots of an admitted request."""
    assert request.sequence is not None, "a request in a step has slots"
    return request.sequence


def step_input(step: Step, cache: KVCache) -> StepInput:
    """`step` as the runtime wants it."""
    decodes = len(step.decodes)
    lengths = [request.length for request in step.decodes]
    lengths += [chunk.end for chunk in step.prefills]
    rows = [sequence_of(request).row for request in step.decodes]
    rows += [sequence_of(chunk.request).row for chunk in step.prefills]
    queries = np.ones(len(rows), dtype=np.int32)
    queries[decodes:] = [len(chunk) for chunk in step.prefills]
    row_array, seq_lens = np.array(rows, dtype=np.int32), np.array(lengths, dtype=np.int32)
    slots = [cache.table[row_array[:decodes], seq_lens[:decodes] - 1]]
    slots += [cache.slots(sequence_of(c.request), c.start, c.end) for c in step.prefills]
    first_tokens = [i for i, chunk in enumerate(step.prefills, decodes) if chunk.gives_token]
    sampled = np.array([*range(decodes), *first_tokens], dtype=np.int32)
    ended = [i for i, c in enumerate(step.prefills, decodes) if c.is_last and not c.gives_token]
    starts = query_starts(queries)
    given = _given_embeddings(step, starts)
    prompt_ids = concatenated([c.request.tokens[c.start : c.end] for c in step.prefills])
    indices, changed = cache.table_changes()
    return StepInput(
        rows=row_array,
        seq_lens=seq_lens,
        query_lens=queries,
        num_decodes=decodes,
        prompt_ids=prompt_ids if given is None else prompt_ids.clip(min=0),
        out_slots=concatenated(slots),
        sampled=sampled,
        prompts_ended=np.array(ended, dtype=np.int32),
        sampling=[_sampling_row(c.request) for c in step.prefills if _is_new_to_sampling(c)],
        shared_lens=step.shared_lens,
        given=given,
        scoring=new_token_scoring(step.wishes, sampled),
        prompt_scoring=prompt_scoring(step.wishes, starts),
        token_type_ids=_token_type_ids(step.prefills),
        state_rows=state_rows(step.wishes, starts),
        masks=step.masks,
        forced=step.is_forced,
        table_indices=indices,
        table_slots=changed,
    )


def _token_type_ids(chunks: list[PrefillChunk]) -> np.ndarray:
    """Of all tokens of `chunks`, [tokens] int32, or none if nobody says anything about them."""
    requests = (chunk.request for chunk in chunks)
    given = [r.token_type_ids if isinstance(r, EmbeddingRequest) else None for r in requests]
    if all(types is None for types in given):
        return concatenated([])
    return concatenated(
        [
            np.zeros(len(chunk), dtype=np.int32)
            if types is None
            else types[chunk.start : chunk.end]
            for chunk, types in zip(chunks, given, strict=True)
        ]
    )


def _given_embeddings(step: Step, starts: np.ndarray) -> GivenEmbeddings[np.ndarray] | None:
    """Those of the prompts in `step`; `starts` [sequences + 1] are its sequences' first tokens."""
    tokens, embeddings = [], []
    for start, chunk in zip(starts[len(step.decodes) :], step.prefills, strict=False):
        if chunk.request.given_embeddings is not None:
            part = chunk.request.given_embeddings[chunk.start : chunk.end]  # an answer has none
            tokens.append(np.arange(start, start + len(part), dtype=np.int64))
            embeddings.append(part)
    if not tokens:
        return None
    return GivenEmbeddings(np.concatenate(tokens), np.concatenate(embeddings))


def _is_new_to_sampling(chunk: PrefillChunk) -> bool:
    """Whether tokens are drawn for its request from now on, or penalties must learn of others."""
    return chunk.gives_token and (not chunk.forced or chunk.request.sampling.has_penalties)


def _sampling_row(request: Request) -> SamplingRow:
    """How the tokens of a request are chosen from now on, as it says itself."""
    wanted = request.sampling
    return SamplingRow(
        row=sequence_of(request).row,
        prompt_len=request.prompt_length,
        seed=request.seed,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        min_p=wanted.min_p,
        penalties=_penalties(request) if wanted.has_penalties else None,
        processor=request.processor,
    )


def _penalties(request: Request) -> Penalties:
    wanted = request.sampling
    prompt = request.text[: request.prompt_length]
    return Penalties(
        prompt=prompt[prompt >= 0],  # embeddings repeat no token
        output=request.text[request.prompt_length :],
        frequency=wanted.frequency_penalty,
        presence=wanted.presence_penalty,
        repetition=wanted.repetition_penalty,
        bias=wanted.logit_bias,
        min_new_tokens=wanted.min_new_tokens,
        stops=tuple(request.stop_token_ids),
    )
