"""Reading config.json and its neighbours: values that are there, and those that should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import ModelConfigError, is_positive_int


def read_json(path: Path) -> Any:
    """What the file holds. Raises ModelConfigError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelConfigError(f"{path}: cannot be read: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that the file holds. Raises ModelConfigError."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelConfigError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def required_size(raw: Mapping[str, Any], key: str, source: Path) -> int:
    """The positive integer at `key`. Raises ModelConfigError if there is none."""
    value = raw.get(key)
    if not isinstance(value, int) or not is_positive_int(value):
        raise ModelConfigError(f"{source}: {key} must be a positive integer, not {value!r}")
    return value


def default(raw: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value at `key`, or `default` where there is none, or null."""
    value = raw.get(key)
    return default if value is None else value
