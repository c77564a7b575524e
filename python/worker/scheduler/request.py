"""One request on its way through the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ..cache.kv_cache import Sequence
from ..grammar.constraint import Constraint
from ..grammar.jump_forward import CONTEXT_TOKENS
from ..messages import Embedding, FinishReason, SamplingParams, TokenChunk
from ..sampling.processing import RowProcessor
from .details import Details, Found

Answer = TokenChunk | Embedding

# Prompts that agree in so many first tokens are taken for similar.
START_TOKENS = 32


@dataclass(eq=False)
class Request:
    """Prompt and answer in one token buffer, and the slots that hold their keys and values.

    `tokens[:length]` is the text so far; its first `prompt_length` tokens are the prompt, and its
    last `pending` tokens are still being computed: the device knows them, the host does not.
    It ends at `max_length` tokens. `start` are the first START_TOKENS tokens of the prompt, as
    bytes. `sequence` is None while the request waits. `cached_tokens` is what the prompt found in
    the cache when it was first admitted. `passed_over` counts the steps in which a request that
    came later was admitted before it. `details` is None for a request that only wants tokens. A
    prompt of `given_embeddings` [prompt_length, hidden] float32 has tokens below 0. `constraint` is
    there once the grammar of the request is compiled, if it has one.
    """

    rid: str
    prompt_length: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    arrival: int
    seed: int
    stream_interval: int
    tokens: np.ndarray = field(repr=False)
    start: bytes = field(repr=False)
    length: int
    max_length: int
    pending: int = 0
    sequence: Sequence | None = None
    cached_tokens: int = 0
    admitted_before: bool = False
    passed_over: int = 0
    unsent: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    details: Details | None = None
    processor: RowProcessor | None = None
    given_embeddings: np.ndarray | None = field(default=None, repr=False)
    constraint: Constraint | None = None

    @classmethod
    def create(
        cls,
        rid: str,
        prompt: list[int],
        sampling: SamplingParams,
        *,
        eos_token_ids: tuple[int, ...],
        arrival: int,
        seed: int,
        stream_interval: int,
    ) -> Self:
        tokens = np.empty(len(prompt) + sampling.max_new_tokens, dtype=np.int32)
        tokens[: len(prompt)] = prompt
        stops = sampling.stop_token_ids
        if not sampling.ignore_eos:
            stops = (*stops, *eos_token_ids)
        return cls(
            rid=rid,
            prompt_length=len(prompt),
            sampling=sampling,
            stop_token_ids=frozenset(stops),
            arrival=arrival,
            seed=seed,
            stream_interval=stream_interval,
            tokens=tokens,
            start=tokens[: min(len(prompt), START_TOKENS)].tobytes(),
            length=len(prompt),
            max_length=len(tokens),
        )

    @property
    def text(self) -> np.ndarray:
        """Prompt and answer so far, as far as the host knows them: [length - pending] int32."""
        return self.tokens[: self.length - self.pending]

    @property
    def reusable(self) -> np.ndarray:
        """The part of `text` that need not be computed if it is cached: [n] int32.

        The last token always is, as the next one follows from it.
        """
        end = self.length - self.pending - 1
        return self.tokens[: end if self.details is None else min(end, self.details.next_row)]

    @property
    def output_length(self) -> int:
        return self.length - self.prompt_length

    @property
    def remaining_tokens(self) -> int:
        """How many tokens it may still generate, after the pending ones."""
        return self.max_length - self.length

    @property
    def is_prompt_only(self) -> bool:
        """Whether it ends when its prompt is computed, without a token."""
        return self.max_length == self.prompt_length

    def expect_token(self) -> None:
        """The next token is being computed."""
        self.length += 1
        self.pending += 1

    def follow(self, token: int) -> bool:
        """The oldest pending token is known, which the grammar goes on with, if it has not yet.

        False if it does not: another one must be drawn.
        """
        if self.constraint is None:
            return True
        return self.constraint.accept(self.output_length - self.pending, token)

    def take_token(self, token: int) -> None:
        """The oldest pending token, which `follow` knows, is there; the last sets `finish`."""
        self.tokens[self.length - self.pending] = token
        self.pending -= 1
        self.unsent.append(token)
        if token in self.stop_token_ids:
            self.finish = FinishReason("stop", matched=token)
        elif self.constraint is not None and self.constraint.finish is not None:
            self.finish = self.constraint.finish
        elif self.length - self.pending == self.max_length:
            self.finish = FinishReason("length")

    def forget_pending(self) -> None:
        """What is pending is void: it is drawn again."""
        self.length -= self.pending
        self.pending = 0

    def jump_forward(self, least: int, most: int | None = None) -> int:
        """Take the tokens that the grammar forces next, if that is at least `least`, and no more
        than `most`; returns how many, and sets `finish` if the last one is among them. What is
        pending is void then.
        """
        if self.constraint is None or self.details is not None or self.processor is not None:
            return 0  # each token's logits are wanted, or seen
        start = self.length - self.pending
        before = self.tokens[max(start - CONTEXT_TOKENS, 0) : start].tolist()
        room = self.max_length - start
        most = room if most is None else min(room, most)
        tokens = self.constraint.jump_forward(before, least, most)
        if not tokens:
            return 0
        self.length, self.pending = start + len(tokens), 0
        self.tokens[start : self.length] = tokens
        self.unsent += tokens
        self.finish = self.constraint.finish
        if self.finish is None and self.length == self.max_length:
            self.finish = FinishReason("length")
        return len(tokens)

    def end_prompt(self) -> None:
        """All that a prompt-only request wants is computed: sets `finish`."""
        assert self.is_prompt_only
        self.finish = FinishReason("length")

    @property
    def wants_to_send(self) -> bool:
        """Whether enough tokens have gathered for a chunk: the first ones always are."""
        gathered = 0 < self.stream_interval <= len(self.unsent)
        is_first = 0 < len(self.unsent) == self.output_length - self.pending
        return gathered or is_first or self.finish is not None

    def take_chunk(self) -> Answer:
        """The tokens since the last chunk, to be sent now."""
        unsent, self.unsent = self.unsent, []
        found = Found() if self.details is None else self.details.take()
        return TokenChunk(self.rid, unsent, self.cached_tokens, self.finish, *found)
