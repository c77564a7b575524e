"""The process beside the engine: a hostile grammar costs itself alone."""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest

from worker.grammar import compile_process
from worker.grammar.base import CompiledGrammar, GrammarBackend, GrammarError
from worker.grammar.compiler import (
    FORGET,
    Compiled,
    CompileOrder,
    CompilerAnswer,
    GrammarCompiler,
    LoadedBackend,
)
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from ..api.worker_process import children_of, wait_until_gone
from .walk import BYTES

GOOD = GrammarSpec("regex", "[ab]{3}")


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(LoadedBackend("xgrammar", lambda: BYTES))
    yield compiler
    compiler.close()


def compile_all(compiler: GrammarCompiler, *specs: GrammarSpec) -> dict[GrammarSpec, Compiled]:
    for spec in specs:
        compiler.submit(spec)
    found = {}
    while len(found) < len(specs):
        found |= {compiled.spec: compiled for compiled in compiler.finished(0.1)}
    return found


def test_nothing_was_asked_for_and_nothing_is_there(compiler):
    assert compiler.finished(0.0) == []


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (GrammarSpec("json_schema", "[" * 100_000), "too deeply nested"),
        (
            GrammarSpec("json_schema", json.dumps({"$ref": "#", "minimum": 5})),
            "too deeply nested",
        ),
        (GrammarSpec("regex", "(" * 5000 + ")" * 5000), "too deeply nested"),
        (GrammarSpec("ebnf", "root ::= " + "(" * 200_000), "ebnf: "),
        (GrammarSpec("regex", "(a"), "regex: "),
        (GrammarSpec("json_schema", '{"enum": ["\\ud800"]}'), "half of a surrogate pair"),
        (GrammarSpec("ebnf", 'root ::= root "a"'), "no token of this model may follow"),
    ],
)
def test_a_hostile_grammar_costs_itself_alone(compiler, hostile, reason):
    compiled = compile_all(compiler, hostile, GOOD)
    refused = compiled[hostile].grammar
    assert isinstance(refused, GrammarError)
    assert reason in str(refused)
    assert compiled[hostile].answer.error == str(refused)
    assert len(str(refused)) < 300
    assert not isinstance(compiled[GOOD].grammar, GrammarError)


class Hostile(GrammarBackend):
    """Does to its process what a grammar says."""

    def compile(self, spec: GrammarSpec) -> bytes:
        exec(spec.text, {})
        return b""

    def load(self, compiled: bytes) -> CompiledGrammar:
        return grammar_backend("xgrammar", BYTES).load(compiled)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("while True: pass", "takes more than"),
        ("bytearray(1 << 34)", "too large"),
        ("import os; os.kill(os.getpid(), 9)", "too large"),
        ("raise RecursionError", "too deeply nested"),
    ],
)
def test_time_and_memory_are_limited(program, reason):
    ours, theirs = multiprocessing.connection.Pipe()
    serving = threading.Thread(
        target=compile_process.serve, args=(theirs, Hostile(), BYTES), daemon=True
    )
    serving.start()
    for _ in range(2):  # it is there for the next one
        ours.send_bytes(msgspec.msgpack.encode(CompileOrder(GrammarSpec("ebnf", program), 0.2)))
        answer = msgspec.msgpack.decode(ours.recv_bytes(), type=CompilerAnswer)
        assert reason in (answer.error or "")
    ours.close()
    serving.join()


def order_for(program: str) -> bytes:
    return msgspec.msgpack.encode(CompileOrder(GrammarSpec("ebnf", program), 100.0))


def test_what_is_forgotten_ends_at_once():
    ours, theirs = multiprocessing.connection.Pipe()
    serving = threading.Thread(
        target=compile_process.serve, args=(theirs, Hostile(), BYTES), daemon=True
    )
    serving.start()
    ours.send_bytes(FORGET)  # nothing yet: it came too late
    ours.send_bytes(order_for("while True: pass"))
    ours.send_bytes(FORGET)
    answer = msgspec.msgpack.decode(ours.recv_bytes(), type=CompilerAnswer)
    assert (answer.compiled, answer.is_late) == (b"", False)
    for _ in range(2):  # the next one is there before the fork has ended
        ours.send_bytes(order_for("raise RecursionError"))
    for _ in range(2):
        answer = msgspec.msgpack.decode(ours.recv_bytes(), type=CompilerAnswer)
        assert "too large" in (answer.error or "")
    ours.send_bytes(order_for("while True: pass"))
    ours.close()  # so that nobody is there
    serving.join()


def test_definitions_that_multiply_end_at_the_limits():
    """outlines writes them out wherever they are named."""
    definitions = {f"l{i}": {"prefixItems": [{"$ref": f"#/$defs/l{i + 1}"}] * 9} for i in range(30)}
    schema = {"$ref": "#/$defs/l0", "$defs": {**definitions, "l30": {"type": "null"}}}
    ours, theirs = multiprocessing.connection.Pipe()
    backend = grammar_backend("outlines", BYTES)
    serving = threading.Thread(target=compile_process.serve, args=(theirs, backend, BYTES))
    serving.start()
    order = CompileOrder(GrammarSpec("json_schema", json.dumps(schema)), 5.0)
    ours.send_bytes(msgspec.msgpack.encode(order))
    answer = msgspec.msgpack.decode(ours.recv_bytes(), type=CompilerAnswer)
    assert "to compile" in (answer.error or "")
    ours.close()
    serving.join()


def test_a_grammar_that_is_slow_to_follow_is_refused(monkeypatch):
    monkeypatch.setattr(compile_process, "SLOW_SECONDS", 0.0)
    answer = compile_process.compile_in_time(grammar_backend("xgrammar", BYTES), BYTES, GOOD)
    assert "too long to say which tokens may come next" in (answer.error or "")


def test_it_starts_again_when_its_process_is_killed(compiler):
    compile_all(compiler, GOOD)
    (pid,) = (
        pid
        for pid in children_of(os.getpid())
        if b"worker.grammar" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    failed = compile_all(compiler, GOOD)[GOOD]
    assert isinstance(failed.grammar, GrammarError)
    assert not failed.answer.is_final
    assert not isinstance(compile_all(compiler, GOOD)[GOOD].grammar, GrammarError)
