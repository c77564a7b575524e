"""Chooses the format of a checkpoint, checks it against the model, and copies its tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...layers.slots import WeightSlot
from ...models.config import ModelConfigError, find_gguf
from ...models.model import Model, WeightLoadError
from .dummy import DummyWeights
from .gguf_source import gguf_source
from .safetensors_source import find_safetensors, safetensors_source
from .source import WeightSource

LOAD_FORMATS = ("auto", "safetensors", "gguf", "dummy")

Progress = Callable[[float], None]
_PROGRESS_STEP = 0.01


@dataclass(frozen=True)
class OpenedWeights:
    """Weights that fit `model`. `fill` writes one tensor, by its name, into its slot."""

    model: Model
    fill: Callable[[str, WeightSlot], None]

    @torch.no_grad()
    def load(self, progress: Progress = lambda fraction: None) -> None:
        """Fill the model; `progress` is told the fraction done, from 0 to 1.

        A layer that keeps its weight in another form gets it from plain memory, one layer at a
        time. A model that was packed is to be packed again. Raises WeightLoadError when a file
        cannot be read to its end; what was filled by then stays.
        """
        progress(0.0)
        done = reported = 0.0
        for share in self._fill_layers():
            done += share
            if done - reported >= _PROGRESS_STEP:
                reported = done
                progress(min(done, 1.0))
        progress(1.0)

    def _fill_layers(self) -> Iterator[float]:
        """Yields each tensor's share of the whole once it is filled."""
        slots = list(self.model.weight_slots())
        total = sum(math.prod(slot.shape) for _, slot in slots)
        for layer, group in itertools.groupby(slots, key=lambda named: named[1].layer):
            if layer is None:
                yield from self._fill_slots(list(group), total)
            else:
                fresh = layer.fresh_weight()
                yield from self._fill_slots(layer.over(fresh, list(group)), total)
                layer.keep(fresh)

    def _fill_slots(self, slots: list[tuple[str, WeightSlot]], total: int) -> Iterator[float]:
        for name, slot in slots:
            self.fill(name, slot)
            yield math.prod(slot.shape) / total


def open_weights(
    model: Model, path: str | Path, load_format: str = "auto", seed: int = 0
) -> OpenedWeights:
    """Find the checkpoint at `path`, a folder or a GGUF file, and check all that its headers say.

    `load_format` is one of LOAD_FORMATS; "dummy" reads nothing and means random numbers made from
    `seed`. The model is not touched. Raises WeightLoadError with one line for the user.
    """
    assert load_format in LOAD_FORMATS, load_format
    device = next(model.parameters()).device
    if load_format == "dummy":
        return OpenedWeights(model, DummyWeights(seed, model.parallel.rank, device).fill)
    source = _with_prefix(model, _open_source(model, Path(path), load_format))
    try:
        _check(model, source)
    except WeightLoadError as error:
        raise WeightLoadError(f"{path}: {error}") from None
    return OpenedWeights(model, lambda name, slot: slot.fill(source.read(name)))


def load_weights(
    model: Model,
    path: str | Path,
    load_format: str = "auto",
    progress: Progress = lambda fraction: None,
    seed: int = 0,
) -> None:
    """Fill `model` from the checkpoint at `path`; see `open_weights` and `OpenedWeights.load`."""
    open_weights(model, path, load_format, seed).load(progress)


def _open_source(model: Model, path: Path, load_format: str) -> WeightSource:
    if load_format == "safetensors" or (load_format == "auto" and find_safetensors(path)):
        return safetensors_source(path)
    try:
        file = find_gguf(path)
    except ModelConfigError as error:
        raise WeightLoadError(
            _nothing_found(path, load_format) if path.is_dir() else str(error)
        ) from None
    weight = next(model.parameters())
    return gguf_source(file, model.config, weight.dtype, weight.device)


def _with_prefix(model: Model, source: WeightSource) -> WeightSource:
    """`source` under the model's names: checkpoints without a head may leave the prefix out."""
    slots = dict(model.weight_slots())
    given = {}
    for name in source.headers:
        full = f"{model.prefix}.{name}"
        is_short = name not in slots and full in slots and full not in source.headers
        given[full if is_short else name] = name
    headers = {name: source.headers[given[name]] for name in given}
    return WeightSource(headers, lambda name: source.read(given[name]))


def _check(model: Model, source: WeightSource) -> None:
    """Raise WeightLoadError for a tensor that is missing, left over or of another kind."""
    slots = dict(model.weight_slots())
    missing = sorted(slots.keys() - source.headers.keys())
    if missing:
        raise WeightLoadError(f"the checkpoint lacks {_list_names(missing)}")
    for name, slot in slots.items():
        header = source.headers[name]
        found = list(header.shape)
        if not header.is_float:
            raise WeightLoadError(f"{name} does not hold floating-point numbers")
        if found != slot.shape:
            raise WeightLoadError(
                f"{name} has the shape {found}, but the configuration asks for {slot.shape}"
            )
    left_over = [name for name in source.headers if not (name in slots or model.is_spare(name))]
    if left_over:
        raise WeightLoadError(f"the model has no place for {_list_names(left_over)}")


def _list_names(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"


def _nothing_found(path: Path, load_format: str) -> str:
    wanted = "GGUF" if load_format == "gguf" else "safetensors or GGUF"
    pickled = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)
    )
    hint = f" ({pickled[0]} is in a format that is not read)" if pickled else ""
    return f"{path}: no {wanted} weights, or more than one GGUF file, in this folder{hint}"
