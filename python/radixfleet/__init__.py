"""The public face of radixfleet: `from radixfleet import Engine`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worker.sampling.custom_logit_processor import CustomLogitProcessor

from .function_call import FunctionCallParser

if TYPE_CHECKING:
    from .engine import Engine
    from .object_regex import build_regex_from_object

__all__ = ["CustomLogitProcessor", "Engine", "FunctionCallParser", "build_regex_from_object"]


# Imported when they are asked for: torch, which `Engine` brings with it, takes seconds.
_LATER = {"Engine": ".engine", "build_regex_from_object": ".object_regex"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
