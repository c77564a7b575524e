"""A model that was packed or quantized takes other weights as if it had been loaded with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from worker.models.config import load_model_config
from worker.models.model import Model
from worker.models.registry import build_model
from worker.runtime.weights import load_weights

from ..checkpoints import make_checkpoint, write_gguf

FORMS: dict[str, Callable[[Model], None]] = {
    "plain": lambda model: None,
    "packed": Model.pack_weights,
    "fp8": Model.quantize_weights,
}


def products(model: Model) -> dict[str, torch.Tensor]:
    """What every layer with a matrix makes of the same tokens, and what the norms hold."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "pack"):
            size = module.weight.shape[1]
            x = torch.linspace(-1, 1, 3 * size).view(3, size)
            found[name] = module(x.to(model.norm.weight.dtype))
        elif hasattr(module, "weight"):
            found[name] = module.weight
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama3", "llama_biases", "qwen3"])
@torch.no_grad()
def test_other_weights_replace_those_of_a_loaded_model(tmp_path, family, form, dtype):
    old, new = (make_checkpoint(tmp_path / str(seed), family, seed=seed) for seed in (0, 1))

    def built(path: Path) -> Model:
        model = build_model(load_model_config(path), dtype)
        load_weights(model, path)
        FORMS[form](model)
        return model

    model = built(old)
    addresses = [weight.data_ptr() for weight in model.parameters() if not weight.is_meta]
    load_weights(model, new)
    model.pack_weights() if form == "packed" else None
    torch.testing.assert_close(products(model), products(built(new)), atol=0, rtol=0)
    assert addresses == [w.data_ptr() for w in model.parameters() if not w.is_meta]


@torch.no_grad()
def test_a_gguf_file_replaces_the_weights_of_a_folder(tmp_path):
    old, new = (make_checkpoint(tmp_path / str(seed), "llama2", seed=seed) for seed in (0, 1))
    models = [build_model(load_model_config(old), torch.float32) for _ in range(2)]
    for model, first in zip(models, (old, new), strict=True):
        load_weights(model, first)
        model.pack_weights()
    load_weights(models[0], write_gguf(new, tmp_path / "new.gguf"))
    torch.testing.assert_close(products(models[0]), products(models[1]), atol=0, rtol=0)
