"""Which class serves which architecture.

Families register themselves; their files are imported when asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..distributed.tensor_parallel import SINGLE, TensorParallel
from .config import ModelConfig, ModelConfigError, check_divisible
from .model import Model

_registered: dict[str, type[Model]] = {}

D = TypeVar("D", bound=type[Model])


def register(*architectures: str) -> Callable[[D], D]:
    """Class decorator: this decoder serves `architectures`, named as config.json names them."""

    def add(family: D) -> D:
        for architecture in architectures:
            assert architecture not in _registered, f"{architecture} is registered twice"
            _registered[architecture] = family
        return family

    return add


def supported_architectures() -> tuple[str, ...]:
    """Every registered architecture, sorted. Imports all files of this package."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return tuple(sorted(_registered))


def build_model(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    max_positions: int | None = None,
    parallel: TensorParallel = SINGLE,
) -> Model:
    """Make a model whose weights are allocated on `device`, once, and not yet filled.

    `max_positions`, the longest sequence, bounds the rope table; None is
    config.max_position_embeddings. With `parallel` it is this rank's share of the model. Raises
    ModelConfigError for an architecture that is not registered, and for sizes that the ranks
    cannot divide.
    """
    if config.architecture not in supported_architectures():
        raise ModelConfigError(
            f"architecture {config.architecture} is not supported; "
            f"supported are {', '.join(sorted(_registered))}"
        )
    max_positions = max_positions or config.max_position_embeddings
    if config.longest_text is not None and max_positions > config.longest_text:
        raise ModelConfigError(
            f"by its positions, this {config.architecture}'s sequences end at "
            f"{config.longest_text} tokens, not at {max_positions}"
        )
    check_divisible(config, parallel.size)
    with torch.device(device), _default_dtype(dtype):
        return _registered[config.architecture](config, max_positions, parallel)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
