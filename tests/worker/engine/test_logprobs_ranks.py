"""Two tensor-parallel ranks tell what one tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from ..checkpoints import make_checkpoint

# The vocabulary is odd, so that ranks hold unequal parts of it.
PROGRAM = """
import json, sys
from tests.worker.engine.harness import Engine
from worker.messages import LogprobOptions, SamplingParams
engine = Engine(sys.argv[1], tp_size=int(sys.argv[2]), chunked_prefill_size=16)
greedy = SamplingParams(8, temperature=0.0, ignore_eos=True)
options = LogprobOptions(prompt_start=0, top=1, token_ids=(5, 160))
rids = [
    engine.ask(list(range(3, 40)), greedy, logprobs=options, return_hidden_states=True),
    engine.ask(list(range(50, 60)), SamplingParams(0), logprobs=options),
    engine.ask([7, 8, 9], greedy),
]
engine.run()
told = []
for chunk in (chunk for rid in rids for chunk in engine.chunks[rid]):
    logprobs = [part for part in (chunk.logprobs, chunk.prompt_logprobs) if part is not None]
    numbers = [value for part in logprobs for value in (*part.chosen, *sum(part.wanted, []))]
    numbers += [value for part in logprobs for [(token, value)] in part.top]
    told.append((chunk.token_ids, numbers, (chunk.hidden_states or b"").hex()))
print(json.dumps(told))
"""


def told(model: Path, ranks: int) -> tuple[list[list[int]], list[np.ndarray], np.ndarray]:
    """Of each chunk its tokens and its log-probabilities; all hidden states."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(ranks)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tokens, numbers, states = zip(*json.loads(done.stdout), strict=True)
    return (
        list(tokens),
        list(map(np.array, numbers)),
        np.frombuffer(bytes.fromhex("".join(states)), np.float32),
    )


def test_two_ranks_tell_what_one_tells(tmp_path):
    model = make_checkpoint(tmp_path, "qwen3", vocab_size=161)
    one, two = told(model, 1), told(model, 2)
    assert one[0] == two[0]
    assert sum(map(len, one[1])) > 100
    for numbers, others in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(numbers, others, atol=1e-4)
    assert len(one[2]) == 64 * (37 + 7)
    np.testing.assert_allclose(one[2], two[2], atol=1e-4)
