"""Two tensor-parallel ranks answer embeddings and call logit processors as one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ..checkpoints import make_checkpoint

PROGRAM = """
import json, sys
import numpy as np
from radixfleet import CustomLogitProcessor
from tests.worker.engine.harness import Engine
from worker.messages import SamplingParams
from worker.tokenization.input_embeds import pack_embeddings

class Shift(CustomLogitProcessor):
    def __call__(self, logits, custom_param_list):
        for row, params in zip(logits, custom_param_list):
            params["at"] += 1
            if params["at"] > 5:
                raise RuntimeError("enough")
            row.copy_(row.roll(params["at"]))
        return logits

if __name__ == "__main__":
    engine = Engine(sys.argv[1], tp_size=int(sys.argv[2]), chunked_prefill_size=16)
    rows = np.random.default_rng(1).normal(size=(40, engine.ready.hidden_size))
    seeded = {"seed": 3, "top_p": 0.9, "ignore_eos": True}
    code = Shift.to_str()
    rids = [
        engine.ask([0] * 40, SamplingParams(8, **seeded), input_embeds=pack_embeddings(rows)),
        engine.ask(
            [7, 8, 9],
            SamplingParams(5, **seeded, custom_params={"at": 0}),
            custom_logit_processor=code,
        ),
        engine.ask(
            [3, 4],
            SamplingParams(8, **seeded, custom_params={"at": 2}),
            custom_logit_processor=code,
        ),
    ]
    engine.run()
    print(json.dumps([[engine.answer(rid), engine.finish[rid].kind] for rid in rids]))
"""


def told(model: Path, ranks: int) -> list[list]:
    """Tokens and reasons of their end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(ranks)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_ranks_answer_as_one(tmp_path):
    model = make_checkpoint(tmp_path, "qwen3", vocab_size=161)
    one = told(model, 1)
    assert [len(tokens) for tokens, _ in one] == [8, 5, 3]
    assert [kind for _, kind in one] == ["length", "length", "abort"]
    assert told(model, 2) == one
