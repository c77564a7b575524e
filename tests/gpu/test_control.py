"""Other weights under CUDA graphs, memory that goes and comes back, and traces with kernels."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from radixfleet import Engine

from ..worker.checkpoints import make_checkpoint
from .smollm2 import answers, engine

SUCCESS = (True, "Succeeded to update model weights.")
PROMPTS = [[1, *range(3, 3 + length)] for length in (1, 5, 40, 90)]
MIB = 1 << 20


def tiny(tmp_path: Path, seed: int) -> Path:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    return make_checkpoint(tmp_path / str(seed), "llama3", seed=seed, **sizes)


def answers_of(path: Path, **options) -> list[list[int]]:
    """Those of an engine that was started with these weights."""
    with engine(path, **options) as fresh:
        return answers(fresh, PROMPTS)


def addresses(engine: Engine) -> list[int]:
    runner = engine.scheduler._engine._runner
    return [weight.data_ptr() for weight in runner.model.parameters()]


@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_graphs_compute_with_the_new_weights(tmp_path, quantization):
    old, new = tiny(tmp_path, 0), tiny(tmp_path, 1)
    options = {"max_total_tokens": 2048, "quantization": quantization}
    wanted = answers_of(new, **options)
    with engine(old, **options) as served:
        before, places = answers(served, PROMPTS), addresses(served)
        assert before != wanted
        assert served.update_weights_from_disk(str(new)) == SUCCESS
        assert addresses(served) == places, "graphs read weights where they were captured"
        assert answers(served, PROMPTS) == wanted
        assert served.update_weights_from_disk(str(tmp_path / "nothing"))[0] is False
        assert served.update_weights_from_disk(str(old)) == SUCCESS
        assert answers(served, PROMPTS) == before


def test_memory_goes_to_others_and_comes_back_with_the_same_answers(smollm2):
    with engine(smollm2) as served:
        before = answers(served, PROMPTS)
        held, free_then = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
        served.release_memory_occupation()
        given_back = served.info.weights_bytes + served.info.kv_cache_bytes
        assert held - torch.cuda.memory_allocated() > given_back
        assert torch.cuda.mem_get_info()[0] - free_then > given_back
        free = torch.cuda.mem_get_info()[0]
        other = torch.empty(free - 256 * MIB, dtype=torch.uint8, device="cuda")
        with pytest.raises(RuntimeError, match="memory is not free"):
            served.resume_memory_occupation()
        del other
        torch.cuda.empty_cache()
        served.resume_memory_occupation()
        assert answers(served, PROMPTS) == before
        assert torch.cuda.memory_allocated() == pytest.approx(held, rel=0.05)


def test_weights_are_replaced_after_memory_came_back(tmp_path):
    old, new = tiny(tmp_path, 0), tiny(tmp_path, 1)
    wanted = answers_of(new, max_total_tokens=2048)
    with engine(old, max_total_tokens=2048) as served:
        served.release_memory_occupation()
        served.resume_memory_occupation()
        assert served.update_weights_from_disk(str(new)) == SUCCESS
        assert answers(served, PROMPTS) == wanted


def test_a_trace_of_steps_has_their_kernels(tmp_path):
    with engine(tiny(tmp_path, 0), max_total_tokens=2048) as served:
        answers(served, PROMPTS)
        served.start_profile(output_dir=str(tmp_path / "traces"), num_steps=3)
        answers(served, PROMPTS)
        (file,) = served.stop_profile()
    with gzip.open(file) as trace:
        events = json.load(trace)["traceEvents"]
    assert any(event.get("cat") == "kernel" for event in events)
