"""Pooling, from the files that sentence-transformers writes beside a model, and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .config import ModelConfigError, Pooling, is_positive_int
from .config_json import read_json, read_object

Mode = Literal["last", "cls", "mean"]

_PREFIX = "pooling_mode_"
_MODES: dict[str, Mode] = {"lasttoken": "last", "cls_token": "cls", "mean_tokens": "mean"}
# Newer files have one key with one of these names.
_SHORT_MODES: dict[str, Mode] = {"lasttoken": "last", "cls": "cls", "mean": "mean"}


def embedding_pooling(folder: Path, default: Mode) -> Pooling:
    """That of the embedding model in `folder`; without modules.json by `default`, and normalized.

    Raises ModelConfigError for a module or a way of pooling that is not supported.
    """
    source = folder / "modules.json"
    if not source.is_file():
        return Pooling(default, normalize=True, max_tokens=_max_tokens(folder))
    mode, normalize = default, False
    for kind, path in _modules(source):
        if kind == "Pooling":
            mode = _mode(folder / path / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ModelConfigError(
                f"{source}: module {kind} is not supported; Transformer, Pooling and Normalize are"
            )
    return Pooling(mode, normalize, max_tokens=_max_tokens(folder))


def classifier_pooling(raw: Mapping[str, Any], source: Path, mode: Mode) -> Pooling:
    """That of a classifier, with the labels that `raw`, read from `source`, names: two, if none."""
    names = raw.get("id2label")
    if not names:
        names = {str(index): f"LABEL_{index}" for index in range(raw.get("num_labels") or 2)}
    try:
        labels = tuple(str(names[key]) for key in sorted(names, key=int))
    except (TypeError, ValueError):
        raise ModelConfigError(f"{source}: id2label must number the labels: {names}") from None
    return Pooling(mode, labels=labels)


def _modules(source: Path) -> list[tuple[str, str]]:
    """Class and folder of each."""
    try:
        return [(entry["type"].rpartition(".")[2], entry["path"]) for entry in read_json(source)]
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelConfigError(f"{source}: not a list of modules: {error!r}") from None


def _mode(source: Path) -> Mode:
    raw = read_object(source)
    chosen, modes = raw.get("pooling_mode"), _SHORT_MODES
    if chosen is None:
        flags = (key for key, value in raw.items() if key.startswith(_PREFIX) and value is True)
        chosen, modes = [key.removeprefix(_PREFIX) for key in flags], _MODES
    names = chosen if isinstance(chosen, list) else [chosen]
    if len(names) != 1 or names[0] not in modes:
        raise ModelConfigError(
            f"{source}: pooling {' and '.join(map(str, names)) or 'by nothing'} is not supported; "
            f"one of {', '.join(modes)} is"
        )
    return modes[names[0]]


def _max_tokens(folder: Path) -> int | None:
    source = folder / "sentence_bert_config.json"
    longest = read_object(source).get("max_seq_length") if source.is_file() else None
    return longest if is_positive_int(longest) else None
