"""The scheduler process's two ZeroMQ sockets to the HTTP process."""

from __future__ import annotations

import logging

import msgspec
import zmq

from ..messages import FromScheduler, ToScheduler

logger = logging.getLogger(__name__)


class Channel:
    """Messages of the HTTP process come in, and the scheduler's go out."""

    def __init__(self, requests: str, outputs: str) -> None:
        self._context = context = zmq.Context()
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

    def close(self) -> None:
        """Returns when what was sent has arrived."""
        self._inbox.close()
        self._outbox.close()
        self._context.term()
