"""The scheduler: admits, batches, retracts and finishes requests, one step at a time."""

from __future__ import annotations

import bisect
import copy
import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
import numpy as np

from ..cache.kv_cache import KVCache
from ..grammar.base import GrammarError
from ..grammar.compiler import Compiled
from ..grammar.constraint import Constraint
from ..messages import (
    ControlAnswer,
    ControlOrder,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    IdleOrder,
    SchedulerState,
)
from ..runtime.cuda_graphs import MOST_FORCED_KEYS, MOST_FORCED_TOKENS
from ..runtime.step_result import PendingResult, StepResult
from ..sampling.custom_logit_processor import ProcessorLoadError, load_processor
from ..sampling.masks import TokenMasks
from ..sampling.processing import RowProcessor
from .admission import RESERVE_LIMIT, NewTokenEstimate
from .details import Details, Wish, hand_out
from .embedded_tokens import EmbeddedTokens
from .embedding_request import EmbeddingRequest
from .engine_control import EngineControl
from .grammars import Grammars
from .planned_prompts import PlannedPrompts
from .policy import POLICIES
from .prefix_order import NOBODY, PrefixOrder
from .refusal import queue_is_full, refusal, refused
from .request import Answer, Request
from .running import RunningRequests
from .step import PrefillChunk, Step, sequence_of

logger = logging.getLogger(__name__)

# Where memory or places lacked, admission is tried again when a request ends, or after so many
# steps: the estimate of what running requests will need sinks slowly.
ADMISSION_REST_STEPS = 8

# Prompts are cut into smaller chunks while so many requests decode for each one that waits. With
# more of them waiting, large chunks bring more requests on their way than they hold up.
CONSIDERATE_SHARE = 4

# After so many failed steps in a row the device is taken for broken, and the process ends.
FAILED_STEPS_LIMIT = 3

# So long at once, a scheduler with nothing else to do waits for a grammar: others may come.
_GRAMMAR_WAIT_SECONDS = 0.005

_OUT_OF_SERVICE = "The worker has released its memory; /resume_memory_occupation takes it back."

_REFUSED = (
    "The grammar does not allow a token that its mask did. Where log-probabilities or hidden "
    "states are wanted, no other is drawn."
)


@dataclass(frozen=True)
class SchedulerOptions:
    """What the scheduler is told at its start; names as in `ServerArgs`. Sizes are in tokens.

    `considerate_chunk_size` is the chunk while far more requests decode than wait for prefill:
    every one of them waits for it. None: as large as always. With `prefix_sharing` a step says what
    its sequences share. `max_queued_requests` None is no limit. `embeds`: the model makes a vector
    of each text, and knows `token_types` types of token. `jump_forward_cost`: a decode step that
    also computes forced tokens takes as long as so many steps more, unless it has no more than
    `graph_tokens` tokens and all of it is in a CUDA graph.
    """

    context_length: int
    max_running_requests: int
    max_prefill_tokens: int
    chunked_prefill_size: int | None
    considerate_chunk_size: int | None
    enable_mixed_chunk: bool
    schedule_policy: str
    schedule_conservativeness: float
    random_seed: int | None
    tp_size: int
    eos_token_ids: tuple[int, ...]
    overlap: bool = False
    prefix_sharing: bool = True
    max_queued_requests: int | None = None
    embeds: bool = False
    token_types: int = 1
    jump_forward_cost: float = 0
    graph_tokens: int = 0


@dataclass
class _Flight:
    """A step that was launched: the requests that get a token, those that end without one, what
    others are told, and the result to come. What is drawn for those that were `overtaken` is void:
    their grammars forced other tokens in its place, or refused the one before. `refused` are those
    whose grammars do not allow what was drawn, once these were asked.
    """

    sampled: list[Request]
    prompts_ended: list[Request]
    wishes: list[Wish]
    result: PendingResult
    overtaken: set[Request] = field(default_factory=set)
    refused: set[Request] | None = None


@dataclass
class Counters:
    """Totals since the start, in tokens and events. `steps` are those that were launched;
    `forced_tokens` are those of the generated ones that no step was asked for.
    """

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    retractions: int = 0
    steps: int = 0


class Scheduler:
    """Requests go in by `add`; every `step` returns the tokens or vectors that it made.

    A request waits (`waiting`), is prefilled, in chunks if it is long (`partial` is the one that
    is in the middle of it), decodes (`running`), and ends; when memory runs out it is retracted to
    `waiting`. Where its grammar forces tokens, these are appended, and computed as a chunk of its
    own beside the decodes (`jumped` are the running ones of which some are still to be computed).
    So does the last token before one that a grammar refused.

    `launch` starts computing a step, which ends with a token for each of `step.sampled`. With
    `options.overlap` the next step is planned and launched before the tokens of the last one are
    looked at. Such a step may hold a request that turns out to have ended: its token is dropped.
    `launched` is what the last `step` launched, None if that was nothing. `engine` carries out
    orders; while it has released its memory, requests are refused. A request that is held to a
    grammar waits in `grammars` until that is compiled.
    """

    def __init__(
        self,
        cache: KVCache,
        launch: Callable[[Step], PendingResult],
        options: SchedulerOptions,
        engine: EngineControl | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self.cache = cache
        self.grammars = Grammars() if grammars is None else grammars
        self.options = options
        self.waiting: list[Request] = []  # by arrival
        self.running = RunningRequests()
        self.partial: Request | None = None
        self.jumped: dict[Request, None] = {}
        self.counters = Counters()
        self.launched: Step | None = None
        self._launch = launch
        self._engine = engine
        self._flight: _Flight | None = None
        self._chunks: list[Answer] = []
        self._requests: dict[str, Request] = {}
        self._policy = POLICIES[options.schedule_policy]
        self._estimate = NewTokenEstimate(options.schedule_conservativeness)
        self._seeds = random.Random(options.random_seed)
        self._embedded_tokens = EmbeddedTokens()
        self._arrivals = 0
        self._prefilled_last = False
        self._failed_steps = 0
        self._admission_rests = 0

    # ===== requests come and go =====

    @property
    def is_idle(self) -> bool:
        return not self._requests

    @property
    def waits_for_grammars(self) -> bool:
        """Whether there are requests, and all of them wait for their grammars."""
        return 0 < len(self.grammars) == len(self._requests)

    @property
    def running_requests(self) -> int:
        """How many have slots: those that decode, and the one that is being prefilled."""
        return len(self.running) + (self.partial is not None)

    def add(self, message: GenerateRequest | EmbedRequest) -> list[Answer]:
        """Take a request. One that can never be served is answered at once."""
        if self._engine is not None and self._engine.released:
            return [refused(message, _OUT_OF_SERVICE, status=503)]
        limit = min(self.options.context_length, self.cache.total_tokens)
        if message.rid in self._requests:
            return [refused(message, f"A request with the id {message.rid!r} is already running.")]
        embeds, token_types = self.options.embeds, self.options.token_types
        reason = refusal(message, limit=limit, embeds=embeds, token_types=token_types)
        if reason is not None:
            return [refused(message, reason)]
        self._arrivals += 1
        if isinstance(message, EmbedRequest):
            request = EmbeddingRequest.of(message, self._arrivals, token_types)
        else:
            try:
                request = self._generation(message, limit - len(message.input_ids))
            except ProcessorLoadError as error:
                return [refused(message, str(error))]
        self._requests[request.rid] = request
        self.grammars.begin(request)
        return self._enqueue(request)

    def _enqueue(self, request: Request) -> list[Answer]:
        """Have a new request wait to be admitted, unless it waits for its grammar."""
        if request in self.grammars:
            return []
        if request.finish is None:
            self._count_forced(request.jump_forward(least=1))
        if request.finish is None:
            bisect.insort(self.waiting, request, key=lambda waiting: waiting.arrival)
            return []
        # Its grammar is bad, allows nothing, or one text alone.
        del self._requests[request.rid]
        return [request.take_chunk()]

    def take_grammar(self, compiled: Compiled) -> None:
        """A grammar is there; those who waited for it go on, but if it is bad, nobody does.

        Where it could just not be compiled this time, those who have it from before are not hurt.
        """
        for request in self.grammars.take(compiled):
            self._chunks += self._enqueue(request)
        if isinstance(compiled.grammar, GrammarError) and compiled.answer.is_final:
            held = [r for r in self._requests.values() if r.sampling.grammar == compiled.spec]
            for request in held:
                request.finish = FinishReason.bad_grammar(str(compiled.grammar))
                self._leave(request)
                self._chunks.append(request.take_chunk())

    def _generation(self, message: GenerateRequest, room: int) -> Request:
        """The request of a `message` whose answer has at most `room` tokens.

        Raises ProcessorLoadError.
        """
        sampling = message.sampling
        prompt, given = message.input_ids, message.input_embeds
        if given is not None:
            prompt = self._embedded_tokens.ids(given)
        request = Request.create(
            message.rid,
            prompt,
            msgspec.structs.replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room)),
            eos_token_ids=self.options.eos_token_ids,
            arrival=self._arrivals,
            seed=self._seeds.getrandbits(63) if sampling.seed is None else sampling.seed,
            stream_interval=message.stream_interval,
        )
        if given is not None:
            rows = np.frombuffer(given.rows, dtype=np.float32)
            request.given_embeddings = rows.reshape(len(prompt), -1)
        request.processor = _row_processor(message)
        request.details = Details.of(message, request.text)
        return request

    def abort(self, rid: str) -> None:
        """End a request now, wherever it is; unknown ids are those that ended just before."""
        request = self._requests.get(rid)
        if request is not None:
            self._leave(request)

    def flush_cache(self) -> bool:
        """Empty the radix cache; False, and nothing done, while there are requests."""
        if not self.is_idle:
            return False
        self.cache.flush()
        return True

    def control(self, order: ControlOrder) -> ControlAnswer:
        """Carry out an order about the engine, between two steps; see `EngineControl`."""
        assert self._engine is not None, "the scheduler was made without"
        assert self.is_idle or not isinstance(order, IdleOrder), "requests are running"
        return self._engine.carry_out(order)

    # ===== a step =====

    def step(self) -> list[Answer]:
        """Plan a batch and launch it; returns the answers that have come: its own or the last's.

        Where all requests wait for their grammars, so does this, for a moment.
        """
        wait_seconds = _GRAMMAR_WAIT_SECONDS if self.waits_for_grammars else 0.0
        finished = self.grammars.finished(wait_seconds)
        for compiled in [*finished, *self.grammars.too_slow(self._requests.values())]:
            self.take_grammar(compiled)
        return self.run_step()

    def run_step(self) -> list[Answer]:
        """The same with the grammars that are there."""
        step = self.launched = self._constrained(self._plan())
        self._bound_queue()
        flight = None
        if step is not None:
            self.counters.steps += 1
            sampled, prompts_ended, wishes = step.sampled, step.prompts_ended, step.wishes
            try:
                flight = _Flight(sampled, prompts_ended, wishes, self._launch(step))
            except Exception as error:
                self._fail(step, error)
            else:
                self._failed_steps = 0
                self._account(step, flight)
        last, self._flight = self._flight, flight
        if last is not None:
            self._take(last)
        if not self.options.overlap:
            self._settle()
        chunks, self._chunks = self._chunks, []
        return chunks

    def _plan(self) -> Step | None:
        """Prefill and decode take turns while there is both, so that neither waits for long."""
        decodes = self._decodes()
        if self._admission_rests > 0:
            self._admission_rests -= 1
        runs_any = decodes.requests or self.jumped
        if not (self._prefilled_last and runs_any) and self._wants_prefill():
            prefills = self._plan_prefill()
            if prefills:
                forced = self._plan_forced(prefills)
                prefills += forced
                mixed = self.options.enable_mixed_chunk
                # Those that jumped and found no place beside prompts have the next step.
                self._prefilled_last = not mixed or len(forced) < len(self.jumped)
                if not mixed:
                    return self._step(NOBODY, prefills)
                return self._step(decodes.only([self._grow(r) for r in decodes.requests]), prefills)
        self._prefilled_last = False
        decodes = self._make_room(decodes)
        if decodes.requests or self.jumped:
            return self._step(decodes, self._plan_forced([]))
        if not self._requests:
            self._estimate.when_idle()
            self.cache.check()
        return None

    def _constrained(self, step: Step | None) -> Step | None:
        """`step` with masks, if any of its requests need one."""
        if step is None:
            return None
        constraints = {
            place: request.constraint
            for place, request in enumerate(step.sampled)
            if request.constraint is not None
        }
        if not constraints:
            return step
        rows = np.array(list(constraints), dtype=np.int32)
        write = partial(self._write_masks, list(constraints.values()))
        return replace(step, masks=TokenMasks(rows, self.grammars.mask_words, write))

    def _write_masks(self, constraints: list[Constraint], masks: np.ndarray) -> None:
        """What may come in a step, once the tokens before are known: [constraints, mask_words]."""
        if self._flight is not None:
            self._follow(self._flight, self._flight.result.wait())
        self.grammars.write_masks(constraints, masks)

    def _follow(self, flight: _Flight, result: StepResult) -> set[Request]:
        """Tell the constraints of a launched step their tokens, unless that was done; returns the
        requests whose tokens are refused.
        """
        if flight.refused is None:
            flight.refused = {
                request
                for place, (request, token) in enumerate(
                    zip(flight.sampled, result.tokens, strict=True)
                )
                if request.constraint is not None
                and place not in result.failures
                and self._awaits(flight, request)
                and not request.follow(token)
            }
        return flight.refused

    def _decodes(self) -> PrefixOrder:
        """Running requests that want another token than the pending ones."""
        running = self.running.in_prefix_order()
        return running.only(
            [r.length < r.max_length and r not in self.jumped for r in running.requests]
        )

    def _step(self, decodes: PrefixOrder, prefills: list[PrefillChunk]) -> Step:
        """A step in which both kinds stand in the order of their slots; without shared prefixes
        prompts by length, as an encoder attends to those of equal length at once.
        """
        if not self.options.prefix_sharing:
            return Step(decodes.requests, sorted(prefills, key=len))
        if not prefills:
            return Step(decodes.requests, [], decodes.shared_lens)
        chunks = {chunk.request: chunk for chunk in prefills}
        order = PrefixOrder.of(chunks)
        planned = [chunks[request] for request in order.requests]
        # Where a token is drawn again, the one before is computed although others may have it.
        starts = np.array([chunk.start for chunk in planned], dtype=np.int32)
        starts[1:] = np.minimum(starts[1:], starts[:-1])
        shared_lens = np.minimum(order.shared_lens, starts)
        return Step(decodes.requests, planned, np.concatenate((decodes.shared_lens, shared_lens)))

    # ===== does it fit? =====

    def _wants_prefill(self) -> bool:
        return self.partial is not None or (bool(self.waiting) and not self._admission_rests)

    def _plan_prefill(self) -> list[PrefillChunk]:
        """The prompts, or chunks of them, that are computed next; their requests are admitted."""
        budget = self._prefill_budget()
        planned: list[PrefillChunk] = []
        room = self._room_left()
        if self.partial is not None:
            chunk = self._chunk(self.partial, budget)
            if chunk is None:
                return []
            planned.append(chunk)
            self.partial = None
            self._place(chunk)
            budget -= len(chunk)
        if self.waiting and budget > 0 and self.partial is None:
            self._admit(planned, budget, room, may_split=self._chunk_size() is not None)
        return planned

    def _plan_forced(self, beside: list[PrefillChunk]) -> list[PrefillChunk]:
        """Forced tokens, as many as a step can compute `beside` other chunks; for a request without
        any, its last token, so that another is drawn.
        """
        budget = self._prefill_budget() - sum(map(len, beside))
        planned = []
        for request in self.jumped:
            start = min(sequence_of(request).computed, request.length - 1)
            end = min(request.length, start + budget)
            if start < end and self._grow(request, end):
                planned.append(PrefillChunk(request, start, end, forced=True))
                budget -= end - start
        return planned

    def _prefill_budget(self) -> int:
        """How many tokens of prompts a step computes."""
        most = self.options.max_prefill_tokens
        return min(self._chunk_size() or most, most)

    def _chunk_size(self) -> int | None:
        waiting = len(self.waiting) + (self.partial is not None)
        if len(self.running) >= CONSIDERATE_SHARE * waiting:
            return self.options.considerate_chunk_size or self.options.chunked_prefill_size
        return self.options.chunked_prefill_size

    def _admit(
        self, planned: list[PrefillChunk], budget: int, room: int, *, may_split: bool
    ) -> None:
        """Add waiting requests to `planned` while tokens, memory and places last."""
        prompts = PlannedPrompts(self.cache, planned)
        admitted: list[Request] = []
        for request in self._policy(self.waiting, self.running, self.cache):
            if budget <= 0:
                break
            full = len(self.running) >= self.options.max_running_requests
            if full or self.cache.free_rows == 0:
                self._admission_rests = ADMISSION_REST_STEPS
                break
            if prompts.will_give_more(request):
                continue
            match = self.cache.match(request.reusable)
            uncached = request.length - len(match)
            if uncached > budget and not may_split and planned:
                break
            alone = not self.running
            before = self.cache.available_tokens
            request.sequence = self.cache.begin(match)
            room -= before - self.cache.available_tokens + uncached
            room -= min(request.remaining_tokens, RESERVE_LIMIT)
            chunk = None
            if room >= 0 or alone:
                chunk = self._chunk(request, budget if may_split else uncached)
            if chunk is None:
                self._release(request)
                self._admission_rests = ADMISSION_REST_STEPS
                break
            self._count_admission(request, len(match))
            self._place(chunk)
            planned.append(chunk)
            prompts.add(request)
            admitted.append(request)
            budget -= len(chunk)
        if admitted:
            newest = max(request.arrival for request in admitted)
            self.waiting = [request for request in self.waiting if request.sequence is None]
            for request in self.waiting:
                request.passed_over += request.arrival < newest

    def _room_left(self) -> int:
        """Tokens of KV memory that no admitted request is expected to need."""
        room = self.cache.available_tokens - self._estimate.expected_tokens(self.running)
        if self.partial is not None:
            room -= self.partial.length - sequence_of(self.partial).allocated
            room -= min(self.partial.remaining_tokens, RESERVE_LIMIT)
        return room

    def _chunk(self, request: Request, budget: int) -> PrefillChunk | None:
        """The next tokens of `request`'s prompt, with slots for them; None if memory is short."""
        start = sequence_of(request).computed
        end = min(request.length, start + budget)
        return PrefillChunk(request, start, end) if self._grow(request, end) else None

    def _place(self, chunk: PrefillChunk) -> None:
        """File the request of a planned chunk under what it will be after the step."""
        if chunk.is_last:
            self.running.add(chunk.request)
        else:
            self.partial = chunk.request

    def _bound_queue(self) -> None:
        """Refuse those that came last, if more wait than may; retracted ones stay."""
        limit = self.options.max_queued_requests
        if limit is None or len(self.waiting) <= limit:
            return
        newest_first = (r for r in reversed(self.waiting) if not r.admitted_before)
        for request in list(itertools.islice(newest_first, len(self.waiting) - limit)):
            del self._requests[request.rid]
            self.waiting.remove(request)
            request.finish = FinishReason("abort", message=queue_is_full(limit), status=503)
            self._chunks.append(request.take_chunk())

    # ===== does it still fit? =====

    def _grow(self, request: Request, length: int | None = None) -> bool:
        length = request.length if length is None else length
        return self.cache.grow(sequence_of(request), length)

    def _make_room(self, decodes: PrefixOrder) -> PrefixOrder:
        """Give each of `decodes` a slot for its last token, and those that jumped slots for theirs,
        oldest first; others are retracted.

        Returns those that can decode.
        """
        lengths = np.array([request.length for request in decodes.requests], dtype=np.int32)
        sequences = [sequence_of(request) for request in decodes.requests]
        if all(map(self._grow, self.jumped)) and self.cache.grow_by_one(sequences, lengths):
            if decodes.requests:
                self._estimate.after_decode()
            return decodes
        self._settle()  # requests may turn out to have ended; those that are left hide no token
        retracted = False
        for request in sorted(self.running, key=lambda request: request.arrival):
            while request.sequence is not None and not self._grow(request):
                self._retract(self._victim())
                retracted = True
        if retracted:
            self._estimate.after_retraction(list(self.running))
        elif self.running:
            self._estimate.after_decode()
        return self._decodes()

    def _victim(self) -> Request:
        """The request that loses least: fewest generated tokens, then the one that came last."""
        candidates = [*self.running] if self.partial is None else [*self.running, self.partial]
        assert len(candidates) > 1, "one request alone always fits"
        return min(candidates, key=lambda request: (request.output_length, -request.arrival))

    def _retract(self, request: Request) -> None:
        """Back to the queue; what it computed stays in the cache for as long as it can."""
        logger.info("KV cache is full: retracting a request", extra={"rid": request.rid})
        self._drop(request)
        self._release(request)
        bisect.insort(self.waiting, request, key=lambda waiting: waiting.arrival)
        self.counters.retractions += 1

    # ===== is it finished? =====

    def _account(self, step: Step, flight: _Flight) -> None:
        """A launched step counts as computed: later ones are computed after it."""
        for chunk in step.prefills:
            sequence_of(chunk.request).computed = chunk.end
            if not chunk.forced:
                self.cache.publish(sequence_of(chunk.request), chunk.request.text)
            elif chunk.is_last:
                del self.jumped[chunk.request]
        for request in step.decodes:
            sequence_of(request).computed = request.length
        for request in flight.sampled:
            request.expect_token()
        for wish in flight.wishes:
            wish.details.expect(wish)

    def _take(self, flight: _Flight) -> None:
        """Hand the tokens of a launched step, once they are there, to its requests."""
        result = flight.result.wait()
        hand_out(flight.wishes, result)
        refused = self._follow(flight, result)
        self.grammars.look_ahead([r.constraint for r in flight.sampled if r.constraint is not None])
        for place, (request, token) in enumerate(zip(flight.sampled, result.tokens, strict=True)):
            if not self._awaits(flight, request):
                continue
            if place in result.failures:
                self._reject(request, result.failures[place])
                continue
            if request in refused:
                self._draw_again(request)
                continue
            request.take_token(token)
            self.counters.generated_tokens += 1
            if request.finish is None and request.constraint is not None:
                self._jump_forward(request)
            if request.finish is not None:
                self._leave(request)
            if request.wants_to_send:
                self._chunks.append(request.take_chunk())
        for i, request in enumerate(flight.prompts_ended):
            if not self._is_here(request):
                continue
            if isinstance(request, EmbeddingRequest):
                assert result.vectors is not None
                request.take_vector(result.vectors[i])
            request.end_prompt()
            self._leave(request)
            self._chunks.append(request.take_chunk())

    def _jump_forward(self, request: Request) -> None:
        """Append what the grammar of a running request forces, where that is worth its cost.

        A token that is being computed meanwhile is thus drawn in vain; the step that would have
        decoded it computes all that is forced, and draws what follows.
        """
        least, most = 1 + request.pending, None  # so that at least one step is saved
        if not self._wants_prefill():  # else there is a step without a graph anyway
            room = self._room_in_graph(request.length)
            if room >= least:
                most = room
            elif not self.jumped or self._room_in_graph(0) >= 0:
                least += int(self.options.jump_forward_cost * len(self.running))
        is_drawn = request.pending > 0
        forced = request.jump_forward(least, most)
        if forced:
            self._count_forced(forced)
            self._overtake(request, is_drawn)

    def _room_in_graph(self, length: int) -> int:
        """How many forced tokens of a request of `length` tokens fit into the CUDA graph of the
        next step, beside all else that is in it. Below 0 where that is too much already.
        """
        jumped = [(r.length, max(r.length - sequence_of(r).computed, 1)) for r in self.jumped]
        forced = sum(tokens for _, tokens in jumped)
        room = min(self.options.graph_tokens - len(self.running), MOST_FORCED_TOKENS) - forced
        keys = MOST_FORCED_KEYS - sum(length * tokens for length, tokens in jumped)
        return min(room, keys // max(length + room, 1))

    def _draw_again(self, request: Request) -> None:
        """The grammar does not allow the token that `request` was to take: its last one before is
        computed once more, for another.
        """
        if request.details is not None:
            self._reject(request, _REFUSED)
            return
        is_drawn = request.pending > 1
        request.forget_pending()
        sequence_of(request).computed = request.length
        self._overtake(request, is_drawn)

    def _overtake(self, request: Request, is_drawn: bool) -> None:
        """The next step of `request` computes a chunk; `is_drawn`: the one in flight is in vain."""
        self.jumped[request] = None
        if is_drawn:
            assert self._flight is not None
            self._flight.overtaken.add(request)

    def _count_forced(self, tokens: int) -> None:
        self.counters.generated_tokens += tokens
        self.counters.forced_tokens += tokens

    def _awaits(self, flight: _Flight, request: Request) -> bool:
        """Whether a token that `flight` brings for `request` is its next one."""
        return self._is_here(request) and request not in flight.overtaken

    def _is_here(self, request: Request) -> bool:
        """False if it has ended while a step with it was computed."""
        return self._requests.get(request.rid) is request

    def _reject(self, request: Request, message: str) -> None:
        """End a request whose own fault it is that it has no next token."""
        # What the device went on with in its place is no part of the text.
        sequence_of(request).computed = len(request.text)
        request.finish = FinishReason("abort", message=message, status=400)
        self._leave(request)
        self._chunks.append(request.take_chunk())

    def _settle(self) -> None:
        """Take what is in flight: no token is pending afterwards."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._take(flight)

    def _fail(self, step: Step, error: Exception) -> None:
        """A step that could not be computed costs its own requests, not the process.

        Of several ranks, the others may have computed it, or wait for this one inside of it.
        """
        self._failed_steps += 1
        if self._failed_steps >= FAILED_STEPS_LIMIT or self.options.tp_size > 1:
            raise error
        logger.exception("a step failed; its requests are aborted")
        for request in step.requests:
            request.finish = FinishReason(
                "abort", message=f"The engine failed: {error}", status=500
            )
            self._leave(request)
            self._chunks.append(request.take_chunk())

    # ===== book-keeping =====

    def _leave(self, request: Request) -> None:
        """`request` is over: out of every list, its slots given back, its KV still cached."""
        del self._requests[request.rid]
        self._admission_rests = 0
        self._drop(request)
        self._release(request)

    def _drop(self, request: Request) -> None:
        """Take `request` out of the list that it is in."""
        self.jumped.pop(request, None)
        if request is self.partial:
            self.partial = None
        elif request.sequence is not None:
            self.running.remove(request)
        elif request in self.grammars:
            self.grammars.drop(request)
        else:
            self.waiting.remove(request)

    def _release(self, request: Request) -> None:
        if request.sequence is not None:
            self.cache.end(request.sequence, request.text)
            request.sequence = None

    def _count_admission(self, request: Request, cached_tokens: int) -> None:
        if request.admitted_before:
            return
        request.admitted_before = True
        request.cached_tokens = cached_tokens = min(cached_tokens, request.prompt_length)
        self.counters.prompt_tokens += request.prompt_length
        self.counters.cached_prompt_tokens += cached_tokens

    def state(self, rid: str, generation_throughput: float = 0.0) -> SchedulerState:
        """Counts of this moment, in answer to the message `rid`; see there for the throughput."""
        return SchedulerState(
            rid=rid,
            running_requests=self.running_requests,
            waiting_requests=len(self.waiting) + len(self.grammars),
            total_tokens=self.cache.total_tokens,
            free_tokens=self.cache.free_tokens,
            cached_tokens=self.cache.cached_tokens,
            held_tokens=self.cache.held_tokens,
            used_tokens=self.cache.used_tokens,
            prompt_tokens_total=self.counters.prompt_tokens,
            cached_prompt_tokens_total=self.counters.cached_prompt_tokens,
            generated_tokens_total=self.counters.generated_tokens,
            retractions_total=self.counters.retractions,
            generation_throughput=generation_throughput,
            forced_tokens_total=self.counters.forced_tokens,
        )


def _row_processor(message: GenerateRequest) -> RowProcessor | None:
    """Raises ProcessorLoadError. The processor may change the parameters: they are a copy."""
    if message.custom_logit_processor is None:
        return None
    processor = load_processor(message.custom_logit_processor)
    return RowProcessor(processor, copy.deepcopy(message.sampling.custom_params))
