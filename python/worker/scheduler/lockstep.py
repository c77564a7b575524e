"""Schedulers of several ranks in step: told the same, they plan the same batches.

Nothing that a scheduler decides depends on time or on anything else that ranks do not share, and
every rank samples the same tokens from the same logits. So rank 0 passes on what it was told, and
which grammars are compiled, with each step and each order about the engine; nothing comes back.
"""

from __future__ import annotations

from multiprocessing.connection import Connection

import msgspec

from ..grammar.compiler import Compiled, CompilerAnswer
from ..messages import (
    AbortRequest,
    ControlAnswer,
    ControlOrder,
    EmbedRequest,
    FlushCache,
    GenerateRequest,
    GrammarSpec,
)
from .ranks import Follower, Followers, last_to_fail
from .request import Answer
from .scheduler import Scheduler


class TakeGrammar(msgspec.Struct, frozen=True, array_like=True, tag="grammar"):
    """A grammar is compiled, or cannot be."""

    spec: GrammarSpec
    answer: CompilerAnswer


class RunStep(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """Plan a batch and launch it."""


Order = (
    GenerateRequest
    | EmbedRequest
    | AbortRequest
    | FlushCache
    | ControlOrder
    | TakeGrammar
    | RunStep
)


class LeadingScheduler(Scheduler):
    """Rank 0's: before each step or order, followers are told what it was told since the last."""

    def __init__(self, *scheduler_args, followers: Followers) -> None:
        super().__init__(*scheduler_args)
        self._followers = followers
        self._orders: list[Order] = []
        self._encoder = msgspec.msgpack.Encoder()

    def add(self, message: GenerateRequest | EmbedRequest) -> list[Answer]:
        self._orders.append(message)
        return super().add(message)

    def abort(self, rid: str) -> None:
        self._orders.append(AbortRequest(rid))
        super().abort(rid)

    def flush_cache(self) -> bool:
        self._orders.append(FlushCache(rid=""))
        return super().flush_cache()

    def control(self, order: ControlOrder) -> ControlAnswer:
        with last_to_fail(Followers.grace_seconds):
            self._tell(order)
            return super().control(order)

    def take_grammar(self, compiled: Compiled) -> None:
        self._orders.append(TakeGrammar(compiled.spec, compiled.answer))
        super().take_grammar(compiled)

    def run_step(self) -> list[Answer]:
        with last_to_fail(Followers.grace_seconds):
            self._tell(RunStep())
            return super().run_step()

    def _tell(self, last: ControlOrder | RunStep) -> None:
        """Pass on what is done now, after all that was told since the last time."""
        self._followers.tell(self._encoder.encode([*self._orders, last]))
        self._orders.clear()


def follow(scheduler: Scheduler, inbox: Connection) -> None:
    """Do what rank 0 does, until it is gone. What the steps return is for rank 0 to answer."""
    decoder = msgspec.msgpack.Decoder(list[Order])
    while True:
        try:
            frame = inbox.recv_bytes()
        except EOFError:
            return
        for order in decoder.decode(frame):
            match order:
                case GenerateRequest() | EmbedRequest():
                    scheduler.add(order)
                case AbortRequest(rid):
                    scheduler.abort(rid)
                case FlushCache():
                    scheduler.flush_cache()
                case TakeGrammar(spec, answer):
                    scheduler.take_grammar(scheduler.grammars.loaded(spec, answer))
                case RunStep():
                    with last_to_fail(Follower.grace_seconds):
                        scheduler.run_step()
                case _:
                    with last_to_fail(Follower.grace_seconds):
                        scheduler.control(order)
