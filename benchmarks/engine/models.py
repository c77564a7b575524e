"""Shapes of models to measure: folders with a config.json and no weights."""

from __future__ import annotations

import json
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def model_folder(name_or_path: str) -> Path:
    """The shipped folder of that name, or a folder by its path. Raises FileNotFoundError."""
    for folder in (CONFIGS / name_or_path, Path(name_or_path).expanduser().resolve()):
        if (folder / "config.json").is_file():
            return folder
    shipped = ", ".join(sorted(folder.name for folder in CONFIGS.iterdir()))
    raise FileNotFoundError(
        f"--model {name_or_path}: no folder with a config.json, and none of {shipped}"
    )


def vocab_size(folder: str | Path) -> int:
    """As its config.json says."""
    return json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
