"""Two ranks over gloo give one rank's logits, for every way in which a model is divided."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worker.distributed.tensor_parallel import TensorParallel
from worker.models.config import ModelConfigError, check_divisible, load_model_config
from worker.models.registry import build_model
from worker.runtime.weights import load_weights

from ..checkpoints import make_checkpoint, write_gguf
from ..models.dense_attention import logits
from .rank_logits import TOKENS

# The family of each case, and what is changed in it.
CASES = {
    "untied head": ("llama2", {}),
    "the same with other weights": ("llama2", {"seed": 1}),
    "tied head": ("llama3", {}),
    "one key/value head, held by both": ("llama3", {"num_key_value_heads": 1}),
    "three key/value heads": (
        "llama2",
        {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3},
    ),
    "biases": ("llama_biases", {}),
    "a window": ("mistral_window", {}),
    "query and key norms": ("qwen3", {}),
    "query biases": ("qwen2", {}),
    "an odd vocabulary": ("llama2", {"vocab_size": 161}),
    "an odd vocabulary, tied": ("qwen3", {"vocab_size": 161}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {
        case: make_checkpoint(folder / str(number), family, **changes)
        for number, (case, (family, changes)) in enumerate(CASES.items())
    }
    return made | {"gguf": write_gguf(made["untied head"], folder / "model.gguf")}


@pytest.fixture(scope="module")
def ranks(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of the two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    outputs = [folder / f"{rank}.pt" for rank in range(2)]
    program = [sys.executable, "-m", f"{__package__}.rank_logits"]
    processes = []
    try:
        with socket.create_server(("127.0.0.1", 0)) as rendezvous:
            places = [rendezvous.fileno(), rendezvous.getsockname()[1]]
            for rank, output in enumerate(outputs):
                arguments = map(str, [rank, places[rank], output, *checkpoints.values()])
                processes.append(
                    subprocess.Popen([*program, *arguments], pass_fds=[rendezvous.fileno()])
                )
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(output) for output in outputs]


@pytest.mark.parametrize("case", [*CASES, "gguf"])
def test_two_ranks_give_the_logits_of_one(
    case: str, checkpoints: dict[str, Path], ranks: list[dict]
) -> None:
    path = checkpoints[case]
    model = build_model(load_model_config(path), torch.float32)
    load_weights(model, path)
    expected = logits(model, TOKENS)
    found, weights_bytes = zip(*(rank[str(path)] for rank in ranks), strict=True)
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)
    assert torch.equal(found[0], found[1]), "every rank must sample from the same bits"
    assert max(weights_bytes) < 0.75 * model.weights_bytes()


def test_the_smallest_value_of_all_ranks_counts(ranks: list[dict]) -> None:
    assert [rank["smallest"] for rank in ranks] == [5, 5]


def test_tensors_are_put_together_from_all_ranks(ranks: list[dict]) -> None:
    whole = torch.arange(15.0).view(5, 3) - 7
    for rank in ranks:
        assert all(torch.equal(assembled, whole) for assembled in rank["assembled"])


def test_what_fails_on_one_rank_fails_on_all(ranks: list[dict]) -> None:
    own = [f"ValueError: rank {rank} could not" for rank in range(2)]
    other = "OtherRankError: another rank could not do its part; its log says why"
    assert ranks[0]["failures"] == [None, own[0], other, own[0]]
    assert ranks[1]["failures"] == [None, other, own[1], own[1]]


def test_weights_that_break_on_one_rank_are_replaced_on_none(ranks: list[dict]) -> None:
    reasons, restored = zip(*(rank["replaced"] for rank in ranks), strict=True)
    assert "another rank could not do its part" in reasons[0]
    assert "Input/output error; the old weights were loaded again" in reasons[1]
    assert restored == (True, True)


def test_sizes_that_ranks_cannot_divide_are_refused(checkpoints: dict[str, Path]) -> None:
    config = load_model_config(checkpoints["tied head"])
    check_divisible(config, 4)
    with pytest.raises(ModelConfigError, match="--tp-size 8: 4 attention heads with 2 key/value"):
        check_divisible(config, 8)
    odd = dataclasses.replace(config, intermediate_size=97)
    with pytest.raises(ModelConfigError, match="--tp-size 2: an intermediate size of 97"):
        check_divisible(odd, 2)


class _OneShot:
    def takes(self, x: torch.Tensor) -> bool:
        return x.numel() <= 4

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_symmetric_memory_sums_what_it_takes_and_the_group_the_rest(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.mul_(10))
    parallel = TensorParallel(0, 2, _OneShot())
    assert parallel.all_reduce(torch.ones(4)).tolist() == [2.0] * 4
    assert parallel.all_reduce(torch.ones(5)).tolist() == [10.0] * 5
    assert TensorParallel(0, 2).all_reduce(torch.ones(2)).tolist() == [10.0] * 2
