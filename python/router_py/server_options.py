"""The command line of `launch_server`: the fleet's own flags, the worker's, and the router's.

Worker flags come from `ServerArgs`, and router flags, with the prefix `--router-`, from the Rust
module: each is defined there and nowhere else.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from worker import __version__
from worker.config import ServerArgs, positive_int

from . import _core
from .router import Router

if TYPE_CHECKING:
    from ._core import OptionDescription

PREFIX = "router_"
# Where the router listens is --host and --port, whom it serves --api-key, and its workers are those
# that are launched.
NOT_FOR_THE_USER = {"host", "port", "worker_urls", "api_key"}


@dataclass(frozen=True)
class ServerOptions:
    """What to launch.

    `host` and `port` of `server` are where the router listens, and its `api_key` is what clients
    need; `router` holds those of its options that were given. Workers ask for `worker_api_key`.
    """

    server: ServerArgs
    dp_size: int
    router: dict[str, Any]

    @functools.cached_property
    def worker_api_key(self) -> str | None:
        """The given one; a random one where clients need a key: nobody gets past the router."""
        given = self.router.get("worker_api_key") or os.environ.get("RADIXFLEET_WORKER_API_KEY")
        return given or (secrets.token_urlsafe() if self.server.api_key is not None else None)

    def metrics_address(self) -> tuple[str, int]:
        """Where the router serves metrics; port 0 for nowhere."""
        settings: dict[str, Any] = json.loads(_core.parse_args([], "launch_server")) | self.router
        return settings["prometheus_host"], settings["prometheus_port"]

    def make_router(self, worker_urls: Sequence[str]) -> Router:
        """The router before these workers. Raises ValueError for a bad option."""
        own = {
            "host": self.server.host,
            "port": self.server.port,
            "worker_urls": list(worker_urls),
            "api_key": [] if self.server.api_key is None else [self.server.api_key],
        }
        return Router(**own, **{**self.router, "worker_api_key": self.worker_api_key})


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong: the usage of some fifty flags would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ('{self.prog} --help' lists the options)\n")


def parse(argv: Sequence[str] | None = None) -> ServerOptions:
    """Raises SystemExit: 0 after --help and --version, 2 with one line on stderr after an error."""
    parser = _parser()
    parsed = parser.parse_args(argv)
    prefixed = {name: value for name, value in vars(parsed).items() if name.startswith(PREFIX)}
    options = ServerOptions(
        server=ServerArgs.from_cli(parsed),
        dp_size=parsed.dp_size,
        router={name.removeprefix(PREFIX): value for name, value in prefixed.items()},
    )
    try:
        options.make_router([])
    except ValueError as error:
        # What the router calls its option, except for --api-key, is prefixed here.
        parser.error(re.sub(r"^--(?!api-key)", "--router-", str(error)))
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="launch_server",
        usage="%(prog)s [options]",
        description="Serve a model with a fleet of workers behind one router.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"radixfleet {__version__}")
    parser.add_argument_group("Fleet").add_argument(
        "--dp-size",
        "--dp",
        "--data-parallel-size",
        type=positive_int,
        default=1,
        metavar="COUNT",
        help="Workers behind the router, each with the whole model. Each takes --tp-size GPUs "
        "of its own; on CPU they share the cores. Default: 1.",
    )
    ServerArgs.add_cli_arguments(parser)
    _add_router_options(parser)
    return parser


def _add_router_options(parser: argparse.ArgumentParser) -> None:
    defaults: dict[str, Any] = json.loads(_core.parse_args([], parser.prog))
    groups: dict[str, Any] = {}
    for option in _core.options():
        key = option["name"].replace("-", "_")
        if key in NOT_FOR_THE_USER:
            continue
        title = f"Router: {option['group'].lower()}"
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        group.add_argument(
            f"--router-{option['name']}",
            dest=PREFIX + key,
            default=argparse.SUPPRESS,
            help=_help(option).replace("%", "%%"),
            **_reading(option, defaults[key]),
        )


def _help(option: OptionDescription) -> str:
    has_default = option["takes_value"] and option["default"] is not None
    return f"{option['help']}." + (f" Default: {option['default']}." if has_default else "")


def _reading(option: OptionDescription, default: Any) -> dict[str, Any]:
    """How argparse reads a router option. An option without a default is a text."""
    if not option["takes_value"]:
        return {"action": "store_true"}
    return {
        "type": _READERS.get(type(default), str),
        "nargs": "+" if option["multiple"] else None,
        "choices": option["choices"],
        "metavar": None if option["choices"] else option["value_name"],
    }


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, and is {text}")
    return count


# How the text of a router option is read, by the type of its default.
_READERS: dict[type, Callable[[str], Any]] = {int: _count, float: float}
