"""A rank's process: the scheduler of the HTTP process, or one that follows it.

Rank 0 takes messages, steps and sends what came out. Each ends when the process that started it
does.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ..config import ServerArgs
from ..dependent_process import ParentProcess
from ..messages import (
    AbortRequest,
    ControlOrder,
    Embedding,
    Embeddings,
    EmbedRequest,
    FlushCache,
    FlushDone,
    GenerateRequest,
    GetState,
    LoadProgress,
    StartFailed,
    TokenChunk,
    TokenChunks,
    ToScheduler,
)
from .ranks import STACKS_SIGNAL, Follower, Followers

if TYPE_CHECKING:
    # Torch is imported once the HTTP process knows that we are here and the other ranks are on
    # their way; pyzmq not at all where there is no HTTP process.
    from .batch_log import BatchLog
    from .channel import Channel
    from .gate import Gate
    from .request import Answer
    from .scheduler import Scheduler

logger = logging.getLogger(__name__)


def main() -> None:
    """Run until the parent ends; exit code 1 if the start fails or the engine breaks."""
    parser = argparse.ArgumentParser(prog="python -m worker.scheduler", description=__doc__)
    parser.add_argument("--args", required=True, help="ServerArgs as JSON")
    parser.add_argument("--parent-fd", required=True, type=int, help="socket that ends with it")
    parser.add_argument("--requests", help="rank 0: ZeroMQ endpoint to take messages from")
    parser.add_argument("--outputs", help="rank 0: ZeroMQ endpoint to send messages to")
    parser.add_argument("--rank", type=int, default=0, help="tensor-parallel rank")
    parser.add_argument("--rendezvous", type=int, help="other ranks: port where all ranks meet")
    parser.add_argument("--steps-fd", type=int, help="other ranks: pipe that rank 0 writes to")
    parsed = parser.parse_args()
    args = ServerArgs.from_json(parsed.args)
    parent = ParentProcess(parsed.parent_fd)
    parent.end_with_it()
    _configure_logs(args, parsed.rank)
    if parsed.rank == 0:
        _lead(args, parent, parsed.requests, parsed.outputs)
    else:
        inbox = Connection(parsed.steps_fd, writable=False)
        _follow(args, parent, Follower(parsed.rank, args.tp_size, parsed.rendezvous, inbox))


def _configure_logs(args: ServerArgs, rank: int) -> None:
    """What every rank would say alike is left to rank 0."""
    name = f"rank {rank}" if rank else "scheduler"
    level = logging.WARNING if rank and args.log_level == "info" else args.log_level.upper()
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {name}: %(message)s")


def serve(scheduler: Scheduler, gate: Gate, channel: Channel, log: BatchLog) -> None:
    """Take messages, step, send what came out; sleeps while there is nothing to do."""
    while True:
        answers: list[Answer] = []
        for message in channel.receive(wait=gate.is_idle):
            answers += _handle(scheduler, gate, channel, log, message)
        answers += gate.open()
        answers += scheduler.step()
        _send(answers, channel)
        log.after_step()


def _send(answers: list[Answer], channel: Channel) -> None:
    chunks = [answer for answer in answers if isinstance(answer, TokenChunk)]
    if chunks:
        channel.send(TokenChunks(chunks))
    embeddings = [answer for answer in answers if isinstance(answer, Embedding)]
    if embeddings:
        channel.send(Embeddings(embeddings))


def _handle(
    scheduler: Scheduler, gate: Gate, channel: Channel, log: BatchLog, message: ToScheduler
) -> list[Answer]:
    match message:
        case GenerateRequest() | EmbedRequest():
            return gate.add(message)
        case AbortRequest():
            gate.abort(message.rid)
        case FlushCache():
            channel.send(FlushDone(message.rid, scheduler.flush_cache()))
        case GetState():
            state = scheduler.state(message.rid, log.throughput)
            waiting = state.waiting_requests + gate.waiting_requests
            channel.send(msgspec.structs.replace(state, waiting_requests=waiting))
        case _ if isinstance(message, ControlOrder):
            gate.order(message)
    return []


def _lead(args: ServerArgs, parent: ParentProcess, requests: str, outputs: str) -> None:
    """Start the other ranks, then the engine, and serve the HTTP process."""
    from .channel import Channel

    channel = Channel(requests, outputs)

    def progress(stage: str, fraction: float) -> None:
        channel.send(LoadProgress(stage, fraction))

    def end_hang(reason: str) -> NoReturn:
        if ranks is not None:  # it may well be another one that does not come to a meeting
            ranks.print_stacks()
        parent.fail(reason)

    progress("importing torch", 0.0)
    try:
        ranks = Followers(args, on_death=parent.fail) if args.tp_size > 1 else None
        from .batch_log import BatchLog
        from .gate import Gate
        from .startup import build_scheduler
        from .watchdog import Watchdog

        scheduler, ready = build_scheduler(args, progress, ranks)
    except Exception as error:
        logger.debug("the start failed", exc_info=True)
        channel.send(StartFailed(_words(error)))
        channel.close()
        sys.exit(1)
    channel.send(ready)
    _exempt_start_from_collection()
    if args.watchdog_timeout > 0.0:
        Watchdog(scheduler, args.watchdog_timeout, end_hang).start()
    try:
        log = BatchLog(scheduler, args.decode_log_interval)
        serve(scheduler, Gate(scheduler, channel.send), channel, log)
    except Exception as error:
        _give_up(parent, error, logging.ERROR)


def _follow(args: ServerArgs, parent: ParentProcess, rank: Follower) -> None:
    """Start this rank's part of the engine, and do what rank 0 does for as long as it is there."""
    log_level = logging.DEBUG
    try:
        from .lockstep import follow
        from .startup import build_scheduler

        scheduler, _ = build_scheduler(args, lambda stage, fraction: None, rank)
        log_level = logging.ERROR
        faulthandler.register(STACKS_SIGNAL)
        _exempt_start_from_collection()
        follow(scheduler, rank.inbox)
    except Exception as error:
        _give_up(parent, error, log_level)
    os._exit(0)  # nobody is left to say goodbye to


def _exempt_start_from_collection() -> None:
    """Let garbage collections pass over what the start has made.

    To go through all of it takes some 0.1 s, which would fall into a step.
    """
    gc.collect()
    gc.freeze()


def _give_up(parent: ParentProcess, error: Exception, log_level: int) -> NoReturn:
    logger.log(log_level, "the engine failed", exc_info=error)
    parent.fail(_words(error))


def _words(error: Exception) -> str:
    return f"{error}" or type(error).__name__
