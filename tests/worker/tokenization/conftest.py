"""Tokenizers for the tests: a tiny one, and the real one where the model is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.tokenization.tokenizer import Tokenizer, load_tokenizer

from .tiny_tokenizer import write_tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder)


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The GGUF file of SmolLM2 in the user's cache, or where RADIXFLEET_TEST_GGUF says."""
    default = Path(
        os.environ.get("RADIXFLEET_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "radixfleet"
    )
    found = sorted((default / "models" / "smollm2-135m").glob("*.gguf"))
    path = os.environ.get("RADIXFLEET_TEST_GGUF") or (found and found[0])
    if not path:
        pytest.skip("the embedded model is not here: run 'radixfleet pull smollm2-135m'")
    return Path(path)


@pytest.fixture(scope="session")
def smollm2(smollm2_file: Path) -> Tokenizer:
    return load_tokenizer(smollm2_file)
