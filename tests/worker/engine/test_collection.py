"""The whole collection of grammars in the running engine, by models that do not want to obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worker.embedded_models import resolve_model_path
from worker.tokenization.tokenizer import Tokenizer, load_tokenizer

from ..checkpoints import make_checkpoint
from ..grammar.collection.check import CASES, Case
from ..grammar.collection.refusals import ENDLESS, refusal
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .harness import Engine

LONGEST = 160
# Without a liking for what ends things, texts at random would go on for ever.
ENDS = '"}])'


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama2")
    make_checkpoint(folder, "llama2", vocab_size=300, max_position_embeddings=512)
    return write_tiny_tokenizer(folder)


@pytest.fixture(scope="module")
def engine(model):
    engine = Engine(model)
    yield engine
    engine.scheduler.grammars.close()


def working(backend: str) -> list[Case]:
    return [
        case for case in CASES if refusal(backend, case.name) is None and case.name not in ENDLESS
    ]


def add_all(engine: Engine, tokenizer: Tokenizer, cases: list[Case]) -> dict[str, Case]:
    """A request for each case, and free ones between."""
    bias = tuple((token, 4.0) for text in ENDS for token in tokenizer.encode(text))
    added = {}
    for i, case in enumerate(cases):
        prompt = [5, 6, *range(3, 6 + i % 20)]
        rid = engine.add(prompt, LONGEST, temperature=1.0, grammar=case.spec, logit_bias=bias)
        added[rid] = case
        if i % 8 == 0:
            engine.add([9, 8, 7, *range(3, 3 + i % 20)], 40, temperature=1.0)
    return added


def check_all(
    engine: Engine, tokenizer: Tokenizer, added: dict[str, Case], least: float = 0.8
) -> None:
    """What is finished is valid, and that is at least a share of `least`."""
    cut = []
    for rid, case in added.items():
        finish = engine.finish[rid]
        if finish.kind == "length":
            cut.append(case.name)
        else:
            assert finish.kind == "stop", (case.name, finish)
            case.check(tokenizer.decode(engine.answer(rid)))
    print(f"{len(added) - len(cut)} answers of {len(added)} ended, and are valid")
    assert len(cut) < len(added) * (1 - least), cut


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunked_prefill_size": 6, "enable_mixed_chunk": True, "page_size": 4},
        {"max_total_tokens": 256, "schedule_conservativeness": 0.02, "disable_radix_cache": True},
    ],
)
def test_answers_are_what_the_grammars_allow(model, engine, overlap, options):
    tokenizer = load_tokenizer(model)
    other = Engine(model, random_seed=1, **options)
    other.scheduler.grammars = engine.scheduler.grammars  # whose compiler runs
    other.scheduler.options = replace(other.scheduler.options, overlap=overlap)
    added = add_all(other, tokenizer, working("xgrammar"))
    other.run()
    check_all(other, tokenizer, added)
    counters = other.scheduler.counters
    assert (counters.retractions > 0) == ("max_total_tokens" in options)
    assert counters.forced_tokens > 0


@pytest.mark.parametrize(
    ("backend", "jumps"), [("xgrammar", False), ("llguidance", True), ("outlines", False)]
)
def test_other_backends_and_no_jumps_do_the_same(model, backend, jumps):
    tokenizer = load_tokenizer(model)
    other = Engine(model, random_seed=2, grammar_backend=backend, disable_jump_forward=not jumps)
    added = add_all(other, tokenizer, working(backend)[::3])
    other.run()
    other.scheduler.grammars.close()
    check_all(other, tokenizer, added)
    assert (other.scheduler.counters.forced_tokens > 0) == jumps


PROGRAM = """
import json, sys
from pathlib import Path
from tests.worker.engine.harness import Engine
from tests.worker.engine.test_collection import add_all, working
from worker.tokenization.tokenizer import load_tokenizer
model = Path(sys.argv[1])
engine = Engine(model, tp_size=2, random_seed=3)
added = add_all(engine, load_tokenizer(model), working("xgrammar")[::8])
engine.run()
engine.scheduler.grammars.close()
ended = [rid for rid in added if engine.finish[rid].kind == "stop"]
print(json.dumps({added[rid].name: engine.answer(rid) for rid in ended}))
"""


def test_two_ranks_obey(model):
    tokenizer = load_tokenizer(model)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    cases = {case.name: case for case in working("xgrammar")}
    answers = json.loads(done.stdout)
    assert len(answers) > 25
    for name, tokens in answers.items():
        cases[name].check(tokenizer.decode(tokens))


WHOLE = bool(os.environ.get("RADIXFLEET_WHOLE_COLLECTION"))


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance"] if WHOLE else ["xgrammar"])
@pytest.mark.timeout(3600)
def test_a_model_that_has_learned_something_obeys(backend):
    """A part of the collection, unless the environment asks for the whole."""
    path = resolve_model_path("smollm2-135m")
    tokenizer = load_tokenizer(path)
    engine = Engine(path, random_seed=4, grammar_backend=backend, max_total_tokens=32768)
    added = {}
    for case in working(backend)[:: 1 if WHOLE else 12]:
        prompt = tokenizer.encode(f"This is an example of {case.name}:\n")
        added[engine.add(prompt, 64, temperature=1.0, grammar=case.spec)] = case
    engine.run()
    engine.scheduler.grammars.close()
    check_all(engine, tokenizer, added, least=0.5)
