"""Weight loading: fills a built model from safetensors, from GGUF, or with random numbers."""

from ...models.model import WeightLoadError
from .loader import LOAD_FORMATS, load_weights, open_weights

__all__ = ["LOAD_FORMATS", "WeightLoadError", "load_weights", "open_weights"]
