"""Custom logit processors: Python that a client sends along, to change its requests' logits.

A processor travels as a string: JSON with its pickled class, as SGLang 0.4.3 makes it. To load one
is to run code of whoever wrote it.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # clients need no torch to send one
    import torch

# Logits [rows, vocab] float32 and each row's `custom_params` in, as many logits out.
LogitProcessor = Callable[["torch.Tensor", list[dict[str, Any] | None]], "torch.Tensor"]

# Where a client that has SGLang has its base class from.
_SGLANG = "sglang.srt.sampling.custom_logit_processor"
_LOADED_LIMIT = 128
_LONGEST_ERROR = 500  # characters


class ProcessorLoadError(ValueError):
    """What a client sent is no processor; the text says why."""


class CustomLogitProcessor(ABC):
    """Derive from it, define `__call__`, and send `to_str()` as `custom_logit_processor`.

    A class of the client's program travels whole; one of an installed module only by its name. One
    instance, made without arguments, serves all requests that send the same string.
    """

    @abstractmethod
    def __call__(
        self, logits: torch.Tensor, custom_param_list: list[dict[str, Any] | None]
    ) -> torch.Tensor:
        """New logits, or `logits` [rows, vocab] float32 themselves, changed in place.

        There is a row for each of the requests that want a token in this step, and its
        `custom_params` in `custom_param_list`: the same dict from the first token to the last.
        """

    @classmethod
    def to_str(cls) -> str:
        """The class as a string that a server can load."""
        import dill

        return json.dumps({"callable": dill.dumps(cls).hex()})

    @classmethod
    def from_str(cls, text: str) -> LogitProcessor:
        """The instance of what `to_str` made; see `load_processor`."""
        return load_processor(text)


@lru_cache(_LOADED_LIMIT)
def load_processor(text: str) -> LogitProcessor:
    """What a client sent: a class, which is called for an instance, or anything else to be called.

    The same string gives the same object, as long as it is among those used last. Raises
    ProcessorLoadError.
    """
    try:
        pickled = bytes.fromhex(json.loads(text)["callable"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ProcessorLoadError(
            "custom_logit_processor: must be what CustomLogitProcessor.to_str() returns"
        ) from None
    try:
        loaded = _unpickle(pickled)
        processor = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # whatever a stranger's code raises
        raise ProcessorLoadError(
            f"custom_logit_processor: cannot be loaded: {words(error)}"
        ) from error
    if callable(processor):
        return cast(LogitProcessor, processor)
    raise ProcessorLoadError(
        f"custom_logit_processor: a {type(processor).__name__} cannot be called"
    )


def words(error: Exception) -> str:
    """What a stranger's error says, as text that can be sent on, whatever it holds."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return text[:_LONGEST_ERROR].encode("utf-8", "replace").decode()


def _unpickle(pickled: bytes) -> Any:
    import dill

    class Unpickler(dill.Unpickler):
        """Takes our base class for SGLang's, which need not be installed here."""

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == (_SGLANG, CustomLogitProcessor.__name__):
                return CustomLogitProcessor
            return super().find_class(module, name)

    return Unpickler(io.BytesIO(pickled)).load()
