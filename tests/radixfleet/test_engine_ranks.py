"""The offline engine with two tensor-parallel ranks: its own process, and one that it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from radixfleet import Engine

from ..worker.checkpoints import make_checkpoint

ARGS = {"dtype": "float32", "device": "cpu", "num_threads": 1, "max_total_tokens": 512}
PROMPTS = [list(range(3, 40)), [7, 8, 9], [50]]
SAMPLING = [{"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}] * 2
SAMPLING += [{"seed": 3, "max_new_tokens": 16, "ignore_eos": True}]

START = """
import json, os, signal, sys
from radixfleet import Engine
from tests.worker.api.worker_process import children_of, wait_until_gone
model, args, prompts, sampling = json.loads(sys.argv[1])
def start():
    return Engine(model_path=model, skip_tokenizer_init=True, tp_size=2, **args)
def answers(engine):
    return [answer["output_ids"] for answer in engine.generate(None, sampling, prompts)]
"""
TWO_ENGINES = """
with start() as engine:
    print(json.dumps(answers(engine)))
    (follower,) = children_of(os.getpid())
wait_until_gone(follower)
print(json.dumps(answers(start())))  # this one ends with the process
"""
A_DEATH = """
engine = start()
(follower,) = children_of(os.getpid())
os.kill(follower, signal.SIGKILL)
while True:
    answers(engine)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3")


def run(program: str, model: Path) -> subprocess.CompletedProcess[str]:
    question = json.dumps([str(model), ARGS, PROMPTS, SAMPLING])
    return subprocess.run(
        [sys.executable, "-c", START + program, question], capture_output=True, text=True
    )


def test_two_ranks_answer_as_one_and_end_with_their_engine(model: Path) -> None:
    with Engine(model_path=str(model), skip_tokenizer_init=True, **ARGS) as engine:
        expected = [each["output_ids"] for each in engine.generate(None, SAMPLING, PROMPTS)]
    done = run(TWO_ENGINES, model)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [expected, expected]
    assert done.stderr == ""


def test_a_rank_that_dies_ends_the_process_and_is_named(model: Path) -> None:
    done = run(A_DEATH, model)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: tensor-parallel rank 1 was killed by SIGKILL"
