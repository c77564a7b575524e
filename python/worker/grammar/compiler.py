"""Compiles grammars in a process beside the engine, so that none of them can hurt it."""

from __future__ import annotations

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

import msgspec

from ..dependent_process import DependentProcess
from ..messages import GrammarSpec
from .base import CompiledGrammar, GrammarBackend, GrammarError, Vocabulary
from .registry import grammar_backend

# How many grammars are compiled at the same time.
_PARALLEL = 4
_COMMAND = (sys.executable, "-P", "-m", "worker.grammar")


class CompilerSetup(msgspec.Struct, frozen=True, array_like=True):
    """The first message to the process."""

    backend: str
    vocabulary: Vocabulary


class CompilerAnswer(msgspec.Struct, frozen=True, array_like=True):
    """To each GrammarSpec: what a backend's `compile` made, or why it cannot be made.

    `is_final`: to ask again would give the same.
    """

    compiled: bytes = b""
    error: str | None = None
    is_final: bool = True


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


class GrammarCompiler:
    """Threads that wait for the process, which is started when it is first needed.

    A thread has a connection of its own to the process, and asks for one grammar after the other.
    """

    def __init__(self, backend: LoadedBackend) -> None:
        self._backend = backend
        self._threads = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="grammar")
        self._running: dict[Future[Compiled], None] = {}
        self._lock = threading.Lock()
        self._process: DependentProcess | None = None
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def submit(self, spec: GrammarSpec) -> None:
        """Compile `spec`, behind those submitted before."""
        self._running[self._threads.submit(self._compile, spec)] = None

    def finished(self, wait_seconds: float) -> list[Compiled]:
        """What has become ready since the last call; waits a little if there is nothing."""
        if not self._running:
            return []
        done, _ = wait(self._running, wait_seconds, FIRST_COMPLETED)
        for future in done:
            del self._running[future]
        return [future.result() for future in done]

    def close(self) -> None:
        """End the process; what was not compiled fails. May be called twice."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._process is not None:
                self._process.close()

    def _compile(self, spec: GrammarSpec) -> Compiled:
        try:
            answer = self._ask(spec)
            return Compiled(spec, answer, loaded(self._backend.get(), answer))
        except (OSError, EOFError):
            reason = "the process that compiles grammars was ended; try again"
        except Exception as error:  # whatever the tokenizer or the backend's library raises
            reason = str(error)
        message = f"{spec.kind}: {reason}"
        return Compiled(spec, CompilerAnswer(error=message, is_final=False), GrammarError(message))

    def _ask(self, spec: GrammarSpec) -> CompilerAnswer:
        with self._lock:
            if self._process is None:
                self._start()
            idle = self._idle
        connection = idle.get()
        try:
            connection.send_bytes(msgspec.msgpack.encode(spec))
            answer = msgspec.msgpack.decode(connection.recv_bytes(), type=CompilerAnswer)
        except (OSError, EOFError):
            with self._lock:
                if idle is self._idle and self._process is not None:  # the first one to notice
                    self._process.close()
                    self._process = None
            raise
        finally:
            idle.put(connection)
        return answer

    def _start(self) -> None:
        """Start the process, and make connections for all threads."""
        setup = CompilerSetup(self._backend.name, self._backend.vocabulary)
        self._idle = queue.SimpleQueue()
        pairs = [socket.socketpair() for _ in range(_PARALLEL)]
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
