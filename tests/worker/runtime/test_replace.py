"""Weights that break while they are read leave the old ones, or no engine at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.layers.slots import WeightSlot
from worker.runtime.model_runner import ModelRunner
from worker.runtime.weights import WeightLoadError, WeightsLostError
from worker.runtime.weights.read import UnknownWeightError

from ..checkpoints import make_checkpoint, weights_of

FAMILIES = ["llama3", "llama_biases"]


@pytest.fixture(params=FAMILIES)
def checkpoints(request, tmp_path: Path) -> tuple[Path, Path]:
    old, new = (make_checkpoint(tmp_path / str(seed), request.param, seed=seed) for seed in (0, 1))
    return old, new


def started(path: Path, **options) -> ModelRunner:
    options = {"device": "cpu", "dtype": "float32", "max_total_tokens": 64} | options
    return ModelRunner(path, num_threads=1, **options)


def weights(runner: ModelRunner) -> dict[str, torch.Tensor]:
    return {name: runner.weight(name, 1000) for name in weights_of(runner.model)}


def assert_holds(runner: ModelRunner, path: Path, **options) -> None:
    torch.testing.assert_close(weights(runner), weights(started(path, **options)), atol=0, rtol=0)
    hidden = torch.linspace(-1, 1, 128).view(2, 64)
    logits = [each.model.compute_logits(hidden) for each in (runner, started(path, **options))]
    torch.testing.assert_close(*logits, atol=0, rtol=0)


def break_after(monkeypatch: pytest.MonkeyPatch, tensors: int, *, for_ever: bool = False) -> None:
    """Have the tensor behind so many not be read, or none that comes after them."""
    fill, filled = WeightSlot.fill, []

    def filled_or_not(self: WeightSlot, weight: torch.Tensor) -> None:
        filled.append(self)
        if len(filled) == tensors + 1 or (for_ever and len(filled) > tensors):
            raise OSError("Input/output error")
        fill(self, weight)

    monkeypatch.setattr(WeightSlot, "fill", filled_or_not)


def ignore(stage: str, fraction: float) -> None:
    pass


@pytest.mark.parametrize("options", [{}, {"quantization": "fp8"}], ids=["plain", "fp8"])
def test_weights_are_replaced(checkpoints: tuple[Path, Path], options: dict) -> None:
    old, new = checkpoints
    runner = started(old, **options)
    runner.update_weights(new, "auto", ignore)
    assert_holds(runner, new, **options)
    runner.update_weights(old, "auto", ignore)
    assert_holds(runner, old, **options)


@pytest.mark.parametrize("tensors", [0, 5, 20])
def test_what_breaks_midway_is_undone(checkpoints, monkeypatch, tensors: int) -> None:
    old, new = checkpoints
    runner = started(old)
    break_after(monkeypatch, tensors)
    with pytest.raises(WeightLoadError, match="Input/output error; the old weights were loaded"):
        runner.update_weights(new, "auto", ignore)
    monkeypatch.undo()
    assert_holds(runner, old)
    runner.update_weights(new, "auto", ignore)
    assert_holds(runner, new)


def test_dummy_weights_come_back_as_they_were(checkpoints, monkeypatch) -> None:
    old, new = checkpoints
    runner = started(old, load_format="dummy", seed=3)
    break_after(monkeypatch, 7)
    with pytest.raises(WeightLoadError, match="the old weights were loaded again"):
        runner.update_weights(new, "auto", ignore)
    monkeypatch.undo()
    assert_holds(runner, old, load_format="dummy", seed=3)


def test_an_engine_that_lost_both_says_so(checkpoints, monkeypatch) -> None:
    runner = started(checkpoints[0])
    break_after(monkeypatch, 5, for_ever=True)
    with pytest.raises(WeightsLostError, match="the old weights are lost, too"):
        runner.update_weights(checkpoints[1], "auto", ignore)


def test_unknown_names_are_told_with_one_that_is_known(checkpoints) -> None:
    runner = started(checkpoints[0])
    with pytest.raises(UnknownWeightError, match=r"no weight 'x'.*model\.embed_tokens\.weight"):
        runner.weight("x", 1)
