"""Other weights for a running model, or the old ones again: nothing in between serves."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...distributed.tensor_parallel import OtherRankError
from ...models.config import ModelConfig, ModelConfigError, load_model_config
from ...models.model import Model, WeightLoadError
from .loader import Progress, load_weights, open_weights

logger = logging.getLogger(__name__)

# Of these a checkpoint may have its own: they change neither the weights nor what is computed.
_NOT_COMPUTED = ("max_position_embeddings", "bos_token_id", "eos_token_ids", "weights_dtype")


@dataclass(frozen=True)
class Checkpoint:
    """Where weights come from; see `open_weights`."""

    path: Path
    load_format: str
    seed: int


class WeightsLostError(RuntimeError):
    """The model has neither the new nor the old weights: it cannot serve."""


def replace_weights(
    model: Model, old: Checkpoint, new: Checkpoint, device: torch.device, progress: Progress
) -> None:
    """Load `new` into a model that has the weights of `old`; all ranks together.

    What its headers say is checked before anything is touched. If it cannot be read to its end, on
    any rank, `old` is loaded again. Raises WeightLoadError or OtherRankError, the old weights being
    in place, or WeightsLostError, if even those cannot be read.
    """
    try:
        with model.parallel.together(device):
            _check_same_model(model.config, new)
            opened = open_weights(model, new.path, new.load_format, new.seed)
    except (OtherRankError, WeightLoadError):
        raise
    except Exception as error:  # nothing was touched, whatever it is
        raise WeightLoadError(str(error)) from error
    try:
        with model.parallel.together(device):
            opened.load(progress)
            model.pack_weights()
    except Exception as error:
        logger.warning("the weights were not updated, and the old ones are loaded again: %s", error)
        try:
            load_weights(model, old.path, old.load_format, progress, old.seed)
            model.pack_weights()
        except Exception as reason:
            raise WeightsLostError(f"{error}; the old weights are lost, too: {reason}") from error
        raise WeightLoadError(f"{error}; the old weights were loaded again") from error


def _check_same_model(config: ModelConfig, new: Checkpoint) -> None:
    """Raise ModelConfigError if the checkpoint is of another architecture or other sizes."""
    found = load_model_config(new.path, is_embedding=config.pooling is not None)
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(found)
    for name, value in ours.items():
        if name not in _NOT_COMPUTED and not _same(value, theirs.get(name)):
            raise ModelConfigError(
                f"{new.path}: {name} is {theirs.get(name)}, and {value} of the model that is served"
            )


def _same(ours: Any, theirs: Any) -> bool:
    """Equal, but that GGUF has numbers in float32."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(_same(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return ours == theirs
