"""Chooses the format of a checkpoint, and reports progress while tensors are copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...models.config import ModelConfigError, find_gguf
from ...models.decoder import Decoder, WeightLoadError, WeightMismatchError
from .dummy import fill_dummy
from .gguf_source import gguf_source
from .safetensors_source import find_safetensors, safetensors_source

LOAD_FORMATS = ("auto", "safetensors", "gguf", "dummy")

Progress = Callable[[float], None]
_PROGRESS_STEP = 0.01


@dataclass(frozen=True)
class WeightSource:
    """A checkpoint's tensors by their Hugging Face names, and the count of all elements."""

    weights: Iterator[tuple[str, torch.Tensor]]
    total_elements: int


def load_weights(
    model: Decoder,
    path: str | Path,
    load_format: str = "auto",
    progress: Progress | None = None,
    seed: int = 0,
) -> None:
    """Fill `model` from the checkpoint at `path`, a folder or a GGUF file.

    `load_format` is one of LOAD_FORMATS; "dummy" reads nothing and fills in random numbers made
    from `seed`. `progress` is told the fraction done, from 0 to 1. Raises WeightLoadError with one
    line for the user.
    """
    assert load_format in LOAD_FORMATS, load_format
    progress = progress or (lambda fraction: None)
    progress(0.0)
    if load_format == "dummy":
        fill_dummy(model, seed)
    else:
        source = _open_source(model, Path(path), load_format)
        try:
            model.load_weights(_reported(source, progress))
        except WeightMismatchError as error:
            raise WeightLoadError(f"{path}: {error}") from None
    progress(1.0)


def _open_source(model: Decoder, path: Path, load_format: str) -> WeightSource:
    if load_format == "safetensors" or (load_format == "auto" and find_safetensors(path)):
        return WeightSource(*safetensors_source(path))
    try:
        file = find_gguf(path)
    except ModelConfigError as error:
        raise WeightLoadError(
            _nothing_found(path, load_format) if path.is_dir() else str(error)
        ) from None
    weight = next(model.parameters())
    return WeightSource(*gguf_source(file, model.config, weight.dtype, weight.device))


def _nothing_found(path: Path, load_format: str) -> str:
    wanted = "GGUF" if load_format == "gguf" else "safetensors or GGUF"
    pickled = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)
    )
    hint = f" ({pickled[0]} is in a format that is not read)" if pickled else ""
    return f"{path}: no {wanted} weights, or more than one GGUF file, in this folder{hint}"


def _reported(source: WeightSource, progress: Progress) -> Iterator[tuple[str, torch.Tensor]]:
    done = reported = 0.0
    for name, weight in source.weights:
        yield name, weight
        done += weight.numel() / source.total_elements
        if done - reported >= _PROGRESS_STEP:
            reported = done
            progress(min(done, 1.0))
