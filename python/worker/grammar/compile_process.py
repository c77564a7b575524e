"""Compiles each grammar in a process of its own, which may neither last long nor take much memory.

This process has the backend and its vocabulary ready, and forks: what a hostile grammar does to the
library ends with the fork.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np

from ..dependent_process import ParentProcess
from ..messages import GrammarSpec
from .base import CompiledGrammar, GrammarBackend, GrammarError, Vocabulary
from .compiler import FORGET, CompileOrder, CompilerAnswer, CompilerSetup
from .constraint import DEAD_END, SLOW_TO_FOLLOW, Constraint, look_ahead
from .registry import grammar_backend
from .slow_work import SLOW_SECONDS
from .structural_tag import StructuralTag

_COMPILE_BYTES = 1 << 30
# The engine loads what was compiled, so it must not be large, nor take long; seconds of CPU time.
_COMPILED_BYTES = 128 << 20
_LOAD_SECONDS = 2.0
# What the engine does comes first, where there are few cores.
_NICE = 10
# How soon it is noticed that nobody waits for a grammar any more.
_POLL_SECONDS = 0.01

# A grammar is tried with some text: no token of it may take long.
_TRIED_STEPS = 32

_TOO_SLOW = "it takes more than {:g} seconds to compile."
_TOO_LARGE = "it is too large or too deeply nested to compile."
_NO_UNICODE = "it has one half of a surrogate pair, which is no text."


def main() -> None:
    """Answer on every connection, until the engine's process ends."""
    parser = argparse.ArgumentParser(prog="python -m worker.grammar", description=__doc__)
    parser.add_argument("--parent-fd", required=True, type=int, help="socket that ends with it")
    parser.add_argument("--fds", required=True, type=int, nargs="+", help="sockets to answer on")
    parsed = parser.parse_args()
    ParentProcess(parsed.parent_fd).end_with_it()
    os.nice(_NICE)
    connections = [Connection(fd) for fd in parsed.fds]
    setup = msgspec.msgpack.decode(connections[0].recv_bytes(), type=CompilerSetup)
    backend = grammar_backend(setup.backend, setup.vocabulary)
    for connection in connections:
        threading.Thread(target=serve, args=(connection, backend, setup.vocabulary)).start()


def serve(connection: Connection, backend: GrammarBackend, vocabulary: Vocabulary) -> None:
    """Compile what comes on `connection`, until its other end is closed."""
    message = FORGET
    while True:
        try:
            message = message or connection.recv_bytes()
        except EOFError:
            return
        if message == FORGET:  # what was done before
            continue
        order = msgspec.msgpack.decode(message, type=CompileOrder)
        pid = os.fork()
        if pid == 0:
            _answer_and_exit(connection, backend, vocabulary, order)
        status, message = _end_of(pid, connection)
        if status != 0:  # it has sent nothing
            is_late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            reason = _TOO_SLOW.format(order.seconds) if is_late else _TOO_LARGE
            answer = CompilerAnswer(error=f"{order.spec.kind}: {reason}", is_late=is_late)
            with contextlib.suppress(BrokenPipeError):  # nobody is there
                _send(connection, answer)


def _end_of(pid: int, connection: Connection) -> tuple[int, bytes]:
    """The status of a fork, and what has come meanwhile: the next order, if the fork has answered,
    or FORGET, with which it is ended.
    """
    message: bytes | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG if message is None else 0)
        if ended:
            return status, message or FORGET
        message = _message_soon(connection)
        if message == FORGET:
            os.kill(pid, signal.SIGTERM)


def _message_soon(connection: Connection) -> bytes | None:
    """None if nothing comes; FORGET also if the other end is closed."""
    try:
        return connection.recv_bytes() if connection.poll(_POLL_SECONDS) else None
    except (EOFError, OSError):
        return FORGET


def _answer_and_exit(
    connection: Connection, backend: GrammarBackend, vocabulary: Vocabulary, order: CompileOrder
) -> NoReturn:
    """In the fork: ends with status 0 if an answer was sent."""
    try:
        _limit_this_process(order.seconds)
        answer = compile_in_time(backend, vocabulary, order.spec)
        # Never in the middle of an answer.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPROF, signal.SIGTERM))
        _send(connection, answer)
        os._exit(0)
    finally:
        os._exit(1)


def _limit_this_process(seconds: float) -> None:
    """To so many of CPU time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries' warnings
    statm = Path("/proc/self/statm")
    if statm.exists():  # else the machine's own limits must do
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        limit = used + _COMPILE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def compile_in_time(
    backend: GrammarBackend, vocabulary: Vocabulary, spec: GrammarSpec
) -> CompilerAnswer:
    """What `backend` makes of `spec`, if answers can follow it as fast as they must."""
    try:
        spec.text.encode()
        compiled = backend.compile(spec)
        if len(compiled) > _COMPILED_BYTES:
            raise MemoryError
        started = time.thread_time()
        grammar = backend.load(compiled)
        if time.thread_time() - started > _LOAD_SECONDS:
            raise MemoryError
        for begin in _begins(spec, vocabulary):
            if _slowest_step(grammar, vocabulary, begin) > SLOW_SECONDS:
                raise GrammarError(SLOW_TO_FOLLOW)
        return CompilerAnswer(compiled)
    except (MemoryError, RecursionError):
        reason = _TOO_LARGE
    except UnicodeEncodeError:
        reason = _NO_UNICODE
    except GrammarError as error:
        reason = str(error)
    except Exception as error:  # whatever else a library finds
        reason = f"it cannot be compiled: {error}"
    return CompilerAnswer(error=f"{spec.kind}: {reason}")


def _begins(spec: GrammarSpec, vocabulary: Vocabulary) -> Iterable[list[int]]:
    """What texts to try begin with: no free text at random would come to a structure."""
    if spec.kind == "structural_tag":
        return StructuralTag.of(spec.text).begins(vocabulary)
    return [[]]


def _slowest_step(grammar: CompiledGrammar, vocabulary: Vocabulary, begin: Sequence[int]) -> float:
    """Seconds of CPU time for a token of some text at random: all requests of a batch wait.

    Raises GrammarError if the text cannot even begin, or the library cannot follow it.
    """
    started = time.thread_time()
    constraint = Constraint(grammar, vocabulary, ())
    look_ahead([constraint])
    constraint.forced_text()
    slowest = time.thread_time() - started
    choice = random.Random(0)
    for place in range(len(begin) + _TRIED_STEPS):
        finish = constraint.finish
        if finish is not None:
            if finish.message and (place == 0 or finish.message != DEAD_END):
                raise GrammarError(finish.message)
            break
        if place < len(begin):
            token = begin[place]
        else:
            bits = np.unpackbits(constraint.mask.view(np.uint8), bitorder="little")
            token = int(choice.choice(np.flatnonzero(bits)))
        started = time.thread_time()
        stands = constraint.accept(place, token)
        look_ahead([constraint])
        constraint.forced_text()
        slowest = max(slowest, time.thread_time() - started)
        if not stands:
            break
    return slowest


def _send(connection: Connection, answer: CompilerAnswer) -> None:
    connection.send_bytes(msgspec.msgpack.encode(answer))
