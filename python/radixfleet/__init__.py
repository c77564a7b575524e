"""The public face of radixfleet: `from radixfleet import Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.sampling.custom_logit_processor import CustomLogitProcessor

from .function_call import FunctionCallParser

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["CustomLogitProcessor", "Engine", "FunctionCallParser"]


def __getattr__(name: str) -> Any:
    """`Engine` is imported when it is asked for: it brings torch with it, which takes seconds."""
    if name == "Engine":
        from .engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
