"""Compiles each grammar in a process of its own, which may neither last long nor take much memory.

This process has the backend and its vocabulary ready, and forks: what a hostile grammar does to the
library ends with the fork.
"""

from __future__ import annotations

import argparse
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
from .compiler import CompilerAnswer, CompilerSetup
from .constraint import Constraint, look_ahead
from .registry import grammar_backend
from .structural_tag import StructuralTag

# What one grammar may take; seconds of CPU time.
COMPILE_SECONDS = 10.0
_COMPILE_BYTES = 1 << 30
# The engine loads what was compiled, so it must not be large.
_COMPILED_BYTES = 128 << 20

# A grammar is tried with some text: no token of it may take so long.
_TRIED_STEPS = 32
_STEP_SECONDS = 0.05

_SLOW_TO_FOLLOW = "it takes too long to say which tokens may come next; a simpler one will do."
_TOO_SLOW = f"it takes more than {COMPILE_SECONDS:g} seconds to compile."
_TOO_LARGE = "it is too large or too deeply nested to compile."


def main() -> None:
    """Answer on every connection, until the engine's process ends."""
    parser = argparse.ArgumentParser(prog="python -m worker.grammar", description=__doc__)
    parser.add_argument("--parent-fd", required=True, type=int, help="socket that ends with it")
    parser.add_argument("--fds", required=True, type=int, nargs="+", help="sockets to answer on")
    parsed = parser.parse_args()
    ParentProcess(parsed.parent_fd).end_with_it()
    connections = [Connection(fd) for fd in parsed.fds]
    setup = msgspec.msgpack.decode(connections[0].recv_bytes(), type=CompilerSetup)
    backend = grammar_backend(setup.backend, setup.vocabulary)
    for connection in connections:
        threading.Thread(target=serve, args=(connection, backend, setup.vocabulary)).start()


def serve(connection: Connection, backend: GrammarBackend, vocabulary: Vocabulary) -> None:
    """Compile what comes on `connection`, until its other end is closed."""
    while True:
        try:
            spec = msgspec.msgpack.decode(connection.recv_bytes(), type=GrammarSpec)
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            _answer_and_exit(connection, backend, vocabulary, spec)
        _, status = os.waitpid(pid, 0)
        if status != 0:  # it has sent nothing
            in_time = not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGPROF
            reason = _TOO_LARGE if in_time else _TOO_SLOW
            _send(connection, CompilerAnswer(error=f"{spec.kind}: {reason}"))


def _answer_and_exit(
    connection: Connection, backend: GrammarBackend, vocabulary: Vocabulary, spec: GrammarSpec
) -> NoReturn:
    """In the fork: ends with status 0 if an answer was sent."""
    try:
        _limit_this_process()
        answer = compile_in_time(backend, vocabulary, spec)
        signal.setitimer(signal.ITIMER_PROF, 0)  # never in the middle of an answer
        _send(connection, answer)
        os._exit(0)
    finally:
        os._exit(1)


def _limit_this_process() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, COMPILE_SECONDS)
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
        compiled = backend.compile(spec)
        if len(compiled) > _COMPILED_BYTES:
            raise MemoryError
        grammar = backend.load(compiled)
        for begin in _begins(spec, vocabulary):
            if _slowest_step(grammar, vocabulary, begin) > _STEP_SECONDS:
                raise GrammarError(_SLOW_TO_FOLLOW)
        return CompilerAnswer(compiled)
    except (MemoryError, RecursionError):
        reason = _TOO_LARGE
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
    """Seconds of CPU time for a token of some text at random: all requests of a batch wait."""
    constraint = Constraint(grammar, vocabulary, ())
    choice = random.Random(0)
    slowest = 0.0
    for place in range(len(begin) + _TRIED_STEPS):
        if constraint.finish is not None:
            break
        if place < len(begin):
            token = begin[place]
        else:
            bits = np.unpackbits(constraint.mask.view(np.uint8), bitorder="little")
            token = int(choice.choice(np.flatnonzero(bits)))
        started = time.thread_time()
        constraint.accept(place, token)
        look_ahead([constraint])
        slowest = max(slowest, time.thread_time() - started)
    return slowest


def _send(connection: Connection, answer: CompilerAnswer) -> None:
    connection.send_bytes(msgspec.msgpack.encode(answer))
