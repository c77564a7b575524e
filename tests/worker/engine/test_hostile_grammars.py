"""What a hostile grammar costs the running engine: its own request."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from pathlib import Path

import pytest

from worker.grammar import compiler
from worker.grammar.base import GrammarError
from worker.grammar.compiler import Compiled, CompilerAnswer
from worker.messages import GrammarSpec
from worker.scheduler import grammars

from ..api.worker_process import children_of
from ..checkpoints import make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .harness import Engine

ENDLESS = r"(([a-z]{1,999}[A-Z]){1,999}[0-9]){1,999}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("llama2"), "llama2", vocab_size=300)
    return write_tiny_tokenizer(folder)


@pytest.fixture(scope="module", params=["xgrammar", "outlines"])
def engine(request, model):
    engine = Engine(model, random_seed=0, grammar_backend=request.param)
    yield engine
    engine.scheduler.grammars.close()


def compilers() -> list[int]:
    """The processes that compile a grammar each."""
    return [
        fork
        for pid in children_of(os.getpid())
        if b"worker.grammar" in Path(f"/proc/{pid}/cmdline").read_bytes()
        for fork in children_of(pid)
    ]


def test_others_go_on_while_it_is_compiled(engine, monkeypatch):
    monkeypatch.setattr(compiler, "_QUICK_SECONDS", 0.2)
    monkeypatch.setattr(compiler, "_COMPILE_SECONDS", 0.4)
    hostile = [engine.add([5, 6], 5, grammar=GrammarSpec("regex", ENDLESS + x)) for x in "abc"]
    free = engine.add([5, 6], 250, ignore_eos=True)
    held = engine.add([5, 6], 5, grammar=GrammarSpec("regex", "ab"))
    while held not in engine.finish:
        engine.step()
    assert not set(hostile) & engine.finish.keys()  # though they came first
    assert len(engine.answer(free)) > 20
    engine.run()
    for rid in hostile:
        assert engine.finish[rid].status == 400
        assert "takes more than 0.4 seconds to compile" in engine.finish[rid].message
    assert engine.finish[free].kind == "length"


def test_what_nobody_waits_for_is_compiled_no_more(engine):
    rids = [engine.add([5, 6], 5, grammar=GrammarSpec("regex", ENDLESS + x)) for x in "def"]
    while not compilers():
        engine.step()
    for rid in rids:
        engine.scheduler.abort(rid)
    while compilers():
        time.sleep(0.01)
    again = engine.add([5, 6], 5, grammar=GrammarSpec("regex", "ab"))
    engine.run()
    assert engine.finish[again].kind == "stop"
    assert not engine.chunks.keys() & set(rids)


@pytest.mark.parametrize("what", ["fill_mask", "accept", "forced_text"])
def test_one_that_becomes_slow_ends_and_is_known_as_bad(engine, monkeypatch, what):
    monkeypatch.setattr(grammars, "_SLOW_SECONDS", 0.1)
    specs = [GrammarSpec("regex", text) for text in (f"[a-z]{{50}}{what}", "[a-y]{50}")]
    rids = [engine.add([5, 6, i], 40, grammar=specs[i > 1]) for i in range(4)]
    while rids[0] not in engine.chunks:
        engine.step()
    requests = engine.scheduler._requests
    slow = requests[rids[0]].constraint._matcher
    monkeypatch.setattr(slow, what, busily(getattr(slow, what)))
    engine.run()
    for rid in rids[:2]:  # also the other one with the same grammar
        assert engine.finish[rid].status == 400
        assert "too long to say which tokens may come next" in engine.finish[rid].message
        assert 0 < len(engine.answer(rid)) < 10
    assert not any(engine.finish[rid].is_failure for rid in rids[2:])
    known = engine.add([5, 6], 5, grammar=specs[0])
    assert engine.finish[known].message == engine.finish[rids[0]].message


def busily(work):
    def work_busily(*arguments):
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass
        return work(*arguments)

    return work_busily


@pytest.mark.parametrize("what", ["fill_mask", "accept", "forced_text"])
def test_time_in_which_the_machine_did_something_else_does_not_count(engine, monkeypatch, what):
    monkeypatch.setattr(grammars, "_SLOW_SECONDS", 0.1)
    rid = engine.add([5, 6], 5, grammar=GrammarSpec("regex", f"[a-z]{{9}}{what}"))
    while rid not in engine.chunks:
        engine.step()
    matcher = engine.scheduler._requests[rid].constraint._matcher
    work = getattr(matcher, what)

    def wait_and_work(*arguments):
        time.sleep(0.06)
        return work(*arguments)

    monkeypatch.setattr(matcher, what, wait_and_work)
    engine.run()
    assert engine.finish[rid].kind == "length"


def test_a_process_that_ends_costs_nobody_who_has_the_grammar_already(engine, monkeypatch):
    spec = GrammarSpec("regex", "[a-z]{40}")
    first = engine.add([5, 6], 50, grammar=spec)
    while first not in engine.chunks:
        engine.step()
    monkeypatch.setattr(engine.scheduler.grammars, "_known", OrderedDict())  # it is forgotten
    second = engine.add([5, 6], 50, grammar=spec)
    reason = "regex: the process that compiles grammars was ended; try again"
    answer = CompilerAnswer(error=reason, is_final=False)
    engine.scheduler.take_grammar(Compiled(spec, answer, GrammarError(reason)))
    engine.run()
    assert engine.finish[second].status == 503
    assert engine.finish[first].kind == "stop"
