"""Weights of a folder of safetensors files, mapped into memory and read tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...models.model import WeightLoadError
from .source import TensorHeader, WeightSource

_INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_LFS_POINTER = b"version https://git-lfs"


def find_safetensors(folder: Path) -> list[Path]:
    """The files that make up the model: the index's, else model.safetensors, else all.

    Mistral's consolidated.safetensors, the same weights under other names, is left aside. An empty
    list: none.
    """
    if (folder / _INDEX).is_file():
        return _indexed(folder)
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(
        file for file in folder.glob("*.safetensors") if not file.name.startswith("consolidated")
    )


def _indexed(folder: Path) -> list[Path]:
    index = folder / _INDEX
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightLoadError(f"{index}: not an index of safetensors files: {error!r}") from None
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise WeightLoadError(
                f"{file}: missing, though {_INDEX} names it: was the download completed?"
            )
    return files


def safetensors_source(folder: Path) -> WeightSource:
    """The tensors of `folder`. Raises WeightLoadError."""
    paths = find_safetensors(folder)
    if not paths:
        raise WeightLoadError(f"{folder}: no safetensors files in this folder")
    headers: dict[str, TensorHeader] = {}
    owners: dict[str, safe_open] = {}
    for path in paths:
        file = _open(path)
        for name in file.keys():  # noqa: SIM118
            if name in headers:
                raise WeightLoadError(f"{path}: the checkpoint holds {name} twice")
            stored = file.get_slice(name)
            headers[name] = TensorHeader(stored.get_shape(), stored.get_dtype() in _FLOATS)
            owners[name] = file
    return WeightSource(headers, lambda name: owners[name].get_tensor(name))


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        with open(file, "rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise WeightLoadError(
                    f"{file}: a Git LFS pointer, not weights: run git lfs pull"
                ) from None
        raise WeightLoadError(f"{file}: truncated or damaged safetensors file: {error}") from None
