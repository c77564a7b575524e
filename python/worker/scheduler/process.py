"""The scheduler process: messages in, steps, messages out. Ends when the HTTP process does."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import msgspec
import zmq

from ..config import ServerArgs
from ..messages import (
    AbortRequest,
    FlushCache,
    FlushDone,
    FromScheduler,
    GenerateRequest,
    GetState,
    LoadProgress,
    StartFailed,
    TokenChunk,
    TokenChunks,
    ToScheduler,
)

if TYPE_CHECKING:  # torch is imported once the HTTP process knows that we are here
    from .scheduler import Scheduler

logger = logging.getLogger(__name__)


class Channel:
    """Two ZeroMQ sockets to the HTTP process."""

    def __init__(self, requests: str, outputs: str) -> None:
        context = zmq.Context()
        self._inbox = context.socket(zmq.PULL)
        self._inbox.connect(requests)
        self._outbox = context.socket(zmq.PUSH)
        self._outbox.set_hwm(0)
        self._outbox.connect(outputs)
        self._decoder = msgspec.msgpack.Decoder(ToScheduler)
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: FromScheduler) -> None:
        self._outbox.send(self._encoder.encode(message))

    def receive(self, *, wait: bool) -> list[ToScheduler]:
        """The messages that have come; with `wait`, at least one."""
        messages = []
        while True:
            try:
                frame = self._inbox.recv(0 if wait and not messages else zmq.NOBLOCK)
                messages.append(self._decoder.decode(frame))
            except zmq.Again:
                return messages
            except msgspec.MsgspecError:
                logger.exception("a message of the HTTP process cannot be read; it is dropped")


def serve(scheduler: Scheduler, channel: Channel) -> None:
    """Take messages, step, send what came out; sleeps while there is nothing to do."""
    while True:
        chunks: list[TokenChunk] = []
        for message in channel.receive(wait=scheduler.is_idle):
            chunks += _handle(scheduler, channel, message)
        chunks += scheduler.step()
        if chunks:
            channel.send(TokenChunks(chunks))


def _handle(scheduler: Scheduler, channel: Channel, message: ToScheduler) -> list[TokenChunk]:
    match message:
        case GenerateRequest():
            return scheduler.add(message)
        case AbortRequest():
            scheduler.abort(message.rid)
        case FlushCache():
            channel.send(FlushDone(message.rid, scheduler.flush_cache()))
        case GetState():
            channel.send(scheduler.state(message.rid))
    return []


def main() -> None:
    """Run until the HTTP process ends; exit code 1 if the start fails or the engine breaks."""
    parser = argparse.ArgumentParser(prog="python -m worker.scheduler", description=__doc__)
    parser.add_argument("--args", required=True, help="ServerArgs as JSON")
    parser.add_argument("--requests", required=True, help="ZeroMQ endpoint to take messages from")
    parser.add_argument("--outputs", required=True, help="ZeroMQ endpoint to send messages to")
    parser.add_argument(
        "--parent-fd", required=True, type=int, help="pipe that ends with the parent"
    )
    parsed = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    args = ServerArgs.from_json(parsed.args)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s scheduler: %(message)s"
    )
    threading.Thread(target=_end_with_parent, args=(parsed.parent_fd,), daemon=True).start()
    channel = Channel(parsed.requests, parsed.outputs)
    serve(_start(args, channel), channel)


def _end_with_parent(parent_fd: int) -> None:
    """Nobody writes to the pipe: a read returns when the parent is gone, however it ended."""
    os.read(parent_fd, 1)
    os._exit(0)


def _start(args: ServerArgs, channel: Channel) -> Scheduler:
    def progress(stage: str, fraction: float) -> None:
        channel.send(LoadProgress(stage, fraction))

    progress("importing torch", 0.0)
    try:
        from .startup import build_scheduler

        scheduler, ready = build_scheduler(args, progress)
    except Exception as error:
        logger.debug("the start failed", exc_info=True)
        channel.send(StartFailed(f"{error}" or type(error).__name__))
        sys.exit(1)
    channel.send(ready)
    return scheduler
