"""Weight loading: fills a built model from safetensors, from GGUF, or with random numbers."""

from ...models.model import WeightLoadError
from .loader import LOAD_FORMATS, load_weights, open_weights
from .replace import Checkpoint, WeightsLostError, replace_weights

__all__ = [
    "LOAD_FORMATS",
    "Checkpoint",
    "WeightLoadError",
    "WeightsLostError",
    "load_weights",
    "open_weights",
    "replace_weights",
]
