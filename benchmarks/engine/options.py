"""The options that the benchmarks of this folder share: the model's, and those of a worker."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from worker.config import MEMORY, RUNTIME, ServerArgs

from .models import CONFIGS, model_folder

_OF_THE_MODEL = ("dtype", "context_length", "device", "quantization", "kv_cache_dtype")
_SKIPPED = tuple(
    option.name
    for option in dataclasses.fields(ServerArgs)
    if (option.metadata["group"] not in (MEMORY, RUNTIME) and option.name not in _OF_THE_MODEL)
    or option.name == "disable_radix_cache"  # a workload says whether it is on
)


def parser(description: str | None, own_weights: str | None = None) -> argparse.ArgumentParser:
    """A parser that knows --model, --seed, and a worker's options.

    With `own_weights`, which is the default then, models that have weights may be named, too.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--model",
        type=_shape if own_weights is None else _model,
        default=own_weights or "llama-3.1-8b",
        help="a shipped shape (llama-3.1-8b, qwen3-0.6b, tiny) or a folder with a config.json"
        + ("" if own_weights is None else "; or what a worker takes as its --model-path"),
    )
    made.add_argument("--seed", type=int, default=0, help="of prompts and weights")
    ServerArgs.add_cli_arguments(made, skip=_SKIPPED)
    return made


def add_profile(parser: argparse.ArgumentParser) -> None:
    """--profile, for a benchmark that can trace what it measures."""
    parser.add_argument(
        "--profile", metavar="DIR", type=os.path.abspath, help="write torch-profiler traces there"
    )


def _model(name_or_path: str) -> str:
    """A shape, or whatever else it is, for an engine to find."""
    shape = CONFIGS / name_or_path
    return str(shape) if shape.is_dir() else name_or_path


def _shape(name_or_path: str) -> str:
    try:
        return str(model_folder(name_or_path))
    except FileNotFoundError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def server_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """What was given of a worker's options, and the seed."""
    given = ServerArgs.from_cli(parsed)
    arguments = {
        option.name: getattr(given, option.name)
        for option in dataclasses.fields(ServerArgs)
        if getattr(given, option.name) != option.default
    }
    return arguments | {"random_seed": parsed.seed}
