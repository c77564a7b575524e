"""The offline engine takes other weights, gives its memory back, and traces its steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from radixfleet import Engine
from worker.layers.stored_weight import StoredWeight

from ..worker.checkpoints import make_checkpoint

ARGS = {"dtype": "float32", "device": "cpu", "num_threads": 1, "max_total_tokens": 512}
GREEDY = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
PROMPT = list(range(3, 40))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[Path]:
    return [
        make_checkpoint(tmp_path_factory.mktemp("weights"), "qwen3", seed=seed) for seed in (0, 1)
    ]


@pytest.fixture(params=[1, 2], ids=["one rank", "two ranks"])
def engine(request, checkpoints):
    with Engine(
        model_path=str(checkpoints[0]), skip_tokenizer_init=True, tp_size=request.param, **ARGS
    ) as engine:
        yield engine


def answer(engine: Engine) -> list[int]:
    return engine.generate(None, GREEDY, PROMPT)["output_ids"]


def test_weights_and_memory_change_between_answers(engine, checkpoints):
    old = answer(engine)
    stream = engine.generate(None, GREEDY, PROMPT, stream=True)
    next(stream)
    assert engine.update_weights_from_disk(str(checkpoints[1])) == (
        True,
        "Succeeded to update model weights.",
    )
    assert engine.server_args.model_path == str(checkpoints[1])
    assert [*stream][-1]["output_ids"] == old, "a stream ends with the weights it began with"
    new = answer(engine)
    assert new != old
    engine.release_memory_occupation()
    with pytest.raises(RuntimeError, match="released"):
        engine.release_memory_occupation()
    with pytest.raises(RuntimeError, match="released"):
        answer(engine)
    engine.resume_memory_occupation()
    assert answer(engine) == new
    assert engine.update_weights_from_disk("nowhere")[0] is False
    assert engine.update_weights_from_disk(str(checkpoints[0]), "safetensors")[0]
    assert answer(engine) == old


def test_orders_that_make_no_sense_are_refused_and_cost_no_rank(engine, checkpoints):
    with pytest.raises(ValueError, match="load_format is 'pickle'"):
        engine.update_weights_from_disk(str(checkpoints[1]), "pickle")
    with pytest.raises(ValueError, match=">= 1"):
        engine.get_weights_by_name("model.norm.weight", 0)
    with pytest.raises(ValueError, match="'TPU'"):
        engine.start_profile(activities=["TPU"])
    assert answer(engine)


def test_weights_can_be_read(engine, checkpoints):
    stored = load_file(checkpoints[0] / "model.safetensors")
    for name in ("model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
        assert engine.get_weights_by_name(name, truncate_size=20) == stored[name][:20].tolist()
    with pytest.raises(ValueError, match=r"no weight 'model\.nose'"):
        engine.get_weights_by_name("model.nose")


def test_a_weight_that_does_not_fit_beside_the_model_is_no_ranks_end(engine, monkeypatch):
    def plain_weight(layer):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(StoredWeight, "plain_weight", plain_weight)
        with pytest.raises(ValueError, match="memory does not last"):
            engine.get_weights_by_name("model.layers.1.self_attn.k_proj.weight")
    assert answer(engine)


def test_each_rank_writes_a_trace_into_the_folder_of_the_environment(engine, tmp_path, monkeypatch):
    if engine.server_args.tp_size > 1:
        engine.start_profile(output_dir=str(tmp_path))  # their environment is that of the start
    else:
        monkeypatch.setenv("SGLANG_TORCH_PROFILER_DIR", str(tmp_path))
        engine.start_profile()
    answer(engine)
    files = engine.stop_profile()
    assert sorted(files) == sorted(map(str, tmp_path.iterdir()))
    assert len(files) == engine.server_args.tp_size
    for file in files:
        with gzip.open(file) as trace:
            assert any("linear" in event["name"] for event in json.load(trace)["traceEvents"])
    with pytest.raises(RuntimeError, match="no profile"):
        engine.stop_profile()


@pytest.mark.parametrize("family", ["llama3", "bert"])
def test_embedding_engines_take_other_weights_and_give_their_memory_back(family, tmp_path):
    old, new = (
        make_checkpoint(tmp_path / str(seed), family, head="embed", seed=seed) for seed in (0, 1)
    )

    def start(path: Path) -> Engine:
        return Engine(model_path=str(path), is_embedding=True, skip_tokenizer_init=True, **ARGS)

    def embedding(engine: Engine) -> list[float]:
        return engine.encode(input_ids=PROMPT)["embedding"]

    with start(old) as served, start(new) as fresh:
        before, wanted = embedding(served), embedding(fresh)
        assert before != wanted
        assert served.update_weights_from_disk(str(new))[0]
        assert embedding(served) == wanted
        served.release_memory_occupation()
        with pytest.raises(RuntimeError, match="released"):
            embedding(served)
        served.resume_memory_occupation()
        assert embedding(served) == wanted
