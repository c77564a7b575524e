"""Compiles grammars in a process beside the engine, so that none of them can hurt it."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from typing import NamedTuple

import msgspec

from ..dependent_process import DependentProcess
from ..messages import GrammarSpec
from .base import CompiledGrammar, GrammarBackend, GrammarError, Vocabulary
from .registry import grammar_backend

# Seconds of CPU time that a grammar may take to compile: at first, so that quick ones do not wait
# for slow ones; and in the end.
_QUICK_SECONDS = 1.0
_COMPILE_SECONDS = 10.0
# How many are compiled at the same time, of the quick ones and of the others.
_PARALLEL_QUICK = 2
_PARALLEL_SLOW = 2
_COMMAND = (sys.executable, "-P", "-m", "worker.grammar")


class CompilerSetup(msgspec.Struct, frozen=True, array_like=True):
    """The first message to the process."""

    backend: str
    vocabulary: Vocabulary


class CompileOrder(msgspec.Struct, frozen=True, array_like=True):
    """What to compile, in how many seconds of CPU time."""

    spec: GrammarSpec
    seconds: float


# Behind a CompileOrder: nobody waits for the answer any more. It comes all the same, and soon.
FORGET = b""


class CompilerAnswer(msgspec.Struct, frozen=True, array_like=True):
    """To each CompileOrder: what a backend's `compile` made, or why it cannot be made.

    is_final: to ask again would give the same
    is_late: there was not enough time
    """

    compiled: bytes = b""
    error: str | None = None
    is_final: bool = True
    is_late: bool = False


class LoadedBackend:
    """A backend and its vocabulary, which are read when they are first needed, by any thread."""

    def __init__(self, name: str, read_vocabulary: Callable[[], Vocabulary]) -> None:
        self.name = name
        self._read_vocabulary = read_vocabulary
        self._lock = threading.Lock()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return self._read_vocabulary()

    @cached_property
    def _backend(self) -> GrammarBackend:
        return grammar_backend(self.name, self.vocabulary)

    def get(self) -> GrammarBackend:
        with self._lock:
            return self._backend


@dataclass(frozen=True)
class Compiled:
    """A grammar that is ready, or why it is not; `answer` is that of the process."""

    spec: GrammarSpec
    answer: CompilerAnswer
    grammar: CompiledGrammar | GrammarError


def loaded(backend: GrammarBackend, answer: CompilerAnswer) -> CompiledGrammar | GrammarError:
    """The grammar that the process has made."""
    return GrammarError(answer.error) if answer.error else backend.load(answer.compiled)


class _Task:
    """A grammar that somebody waits for. `connection` is there while the process has the order."""

    def __init__(self, spec: GrammarSpec) -> None:
        self.spec = spec
        self._connection: Connection | None = None
        self._is_forgotten = False
        self._lock = threading.Lock()

    def ask(self, connection: Connection, seconds: float) -> CompilerAnswer:
        """Raises EOFError or OSError if the process ends."""
        connection.send_bytes(msgspec.msgpack.encode(CompileOrder(self.spec, seconds)))
        with self._lock:
            self._connection = connection
            if self._is_forgotten:
                connection.send_bytes(FORGET)
        answer = connection.recv_bytes()
        with self._lock:
            self._connection = None
        return msgspec.msgpack.decode(answer, type=CompilerAnswer)

    def forget(self) -> None:
        with self._lock:
            self._is_forgotten = True
            if self._connection is not None:
                with contextlib.suppress(OSError):  # the process has ended
                    self._connection.send_bytes(FORGET)


class _Running(NamedTuple):
    """`is_quick`: it gets more time if that is needed."""

    task: _Task
    future: Future[Compiled]
    is_quick: bool


class GrammarCompiler:
    """Threads that wait for the process, which is started when it is first needed.

    A thread has a connection of its own to the process, and asks for one grammar after the other.
    Those that take long are given up after a while, and wait for threads of their kind.
    """

    def __init__(self, backend: LoadedBackend) -> None:
        self._backend = backend
        self._quick = ThreadPoolExecutor(_PARALLEL_QUICK, thread_name_prefix="grammar")
        self._slow = ThreadPoolExecutor(_PARALLEL_SLOW, thread_name_prefix="slow-grammar")
        self._running: dict[GrammarSpec, _Running] = {}
        self._lock = threading.Lock()
        self._process: DependentProcess | None = None
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def submit(self, spec: GrammarSpec) -> None:
        """Compile `spec`, behind those submitted before."""
        task = _Task(spec)
        quick = self._quick.submit(self._compile, task, _QUICK_SECONDS)
        self._running[spec] = _Running(task, quick, is_quick=True)

    def forget(self, spec: GrammarSpec) -> None:
        """Stop compiling what was submitted, and has not been returned as finished."""
        running = self._running.pop(spec)
        if not running.future.cancel():
            running.task.forget()

    def finished(self, wait_seconds: float) -> list[Compiled]:
        """What has become ready since the last call; waits a little if there is nothing."""
        if not self._running:
            return []
        if wait_seconds:
            futures = [running.future for running in self._running.values()]
            wait(futures, wait_seconds, FIRST_COMPLETED)
        ready = []
        for spec, (task, future, is_quick) in list(self._running.items()):
            if not future.done():
                continue
            compiled = future.result()
            if is_quick and compiled.answer.is_late:
                slow = self._slow.submit(self._compile, task, _COMPILE_SECONDS)
                self._running[spec] = _Running(task, slow, is_quick=False)
            else:
                del self._running[spec]
                ready.append(compiled)
        return ready

    def close(self) -> None:
        """End the process; what was not compiled fails. May be called twice."""
        for threads in (self._quick, self._slow):
            threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._process is not None:
                self._process.close()

    def _compile(self, task: _Task, seconds: float) -> Compiled:
        spec = task.spec
        try:
            answer = self._ask(task, seconds)
            return Compiled(spec, answer, loaded(self._backend.get(), answer))
        except (OSError, EOFError):
            reason = "the process that compiles grammars was ended; try again"
        except Exception as error:  # whatever the tokenizer or the backend's library raises
            reason = str(error)
        message = f"{spec.kind}: {reason}"
        return Compiled(spec, CompilerAnswer(error=message, is_final=False), GrammarError(message))

    def _ask(self, task: _Task, seconds: float) -> CompilerAnswer:
        with self._lock:
            if self._process is None:
                self._start()
            idle = self._idle
        connection = idle.get()
        try:
            return task.ask(connection, seconds)
        except (OSError, EOFError):
            with self._lock:
                if idle is self._idle and self._process is not None:  # the first one to notice
                    self._process.close()
                    self._process = None
            raise
        finally:
            idle.put(connection)

    def _start(self) -> None:
        """Start the process, and make connections for all threads."""
        setup = CompilerSetup(self._backend.name, self._backend.vocabulary)
        self._idle = queue.SimpleQueue()
        pairs = [socket.socketpair() for _ in range(_PARALLEL_QUICK + _PARALLEL_SLOW)]
        theirs = [their.fileno() for _, their in pairs]
        self._process = DependentProcess(
            "the grammar compiler", [*_COMMAND, "--fds", *map(str, theirs)], pass_fds=theirs
        )
        connections = [Connection(os.dup(our.fileno())) for our, _ in pairs]
        for our, their in pairs:
            our.close()
            their.close()
        connections[0].send_bytes(msgspec.msgpack.encode(setup))
        for connection in connections:
            self._idle.put(connection)
