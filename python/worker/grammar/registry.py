"""Grammar backends by name, each imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from .base import GrammarBackend, Vocabulary

# The class of each, by `--grammar-backend`.
BACKENDS = {
    "xgrammar": ("xgrammar", "XGrammar"),
    "llguidance": ("llguidance", "LLGuidance"),
    "outlines": ("outlines", "Outlines"),
}


def grammar_backend(name: str, vocabulary: Vocabulary) -> GrammarBackend:
    """The backend called `name`, for texts of `vocabulary`."""
    module, kind = BACKENDS[name]
    make: Callable[[Vocabulary], GrammarBackend] = getattr(
        importlib.import_module(f".{module}", __package__), kind
    )
    return make(vocabulary)
