"""The `radixfleet` command: pull embedded models, watch a demonstration, describe this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from worker import __version__
from worker.embedded_models import EMBEDDED_MODELS, ModelNotFoundError, pull


def main(argv: Sequence[str] | None = None) -> None:
    """Exit code 0, 1 for a failure (one line on stderr), 2 for wrong arguments, 130 for Ctrl-C."""
    parsed = _parser().parse_args(argv)
    try:
        sys.exit(parsed.run(parsed))
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="radixfleet",
        description="A fleet of LLM workers behind one cache-aware router. "
        "`launch_server` serves a model.",
    )
    parser.add_argument("--version", action="version", version=f"radixfleet {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    pulling = commands.add_parser(
        "pull",
        help="download an embedded model",
        description="Download an embedded model into the cache folder, check it and print its "
        "path. Launchers do this by themselves.",
    )
    pulling.add_argument(
        "model", nargs="?", choices=sorted(EMBEDDED_MODELS), help="which; without it, list them"
    )
    pulling.set_defaults(run=_pull)

    demo = commands.add_parser(
        "demo",
        help="serve a model on a free port and talk to it",
        description="Start a fleet on a free port, hold a scripted conversation with it, show how "
        "requests that share a prompt use the workers' caches, and stop it.",
    )
    demo.add_argument(
        "--model-path", default="smollm2-135m", metavar="PATH", help="default: smollm2-135m"
    )
    demo.add_argument("--dp-size", default="2", metavar="COUNT", help="workers; default: 2")
    demo.set_defaults(run=_demo)

    environment = commands.add_parser(
        "env",
        help="describe this machine, for a bug report",
        description="Print versions, cores, memory and accelerators, for a bug report.",
    )
    environment.set_defaults(run=_environment)
    return parser


def _pull(parsed: argparse.Namespace) -> int:
    if parsed.model is None:
        _list_models()
        return 0
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
            bar = bars.add_task(f"looking for {parsed.model}", total=1.0)
            path = pull(
                EMBEDDED_MODELS[parsed.model],
                lambda stage, done: bars.update(bar, description=stage, completed=done),
            )
    except ModelNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


def _list_models() -> None:
    for model in EMBEDDED_MODELS.values():
        place = f"pulled to {model.path}" if model.is_pulled() else "not pulled yet"
        print(f"{model.name}: {model.description}, {model.size / 1e6:.0f} MB; {place}")


def _demo(parsed: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(parsed.model_path, parsed.dp_size)


def _environment(parsed: argparse.Namespace) -> int:
    from .environment import describe_environment

    width = max(map(len, facts := describe_environment()))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
    return 0


if __name__ == "__main__":
    main()
