"""The `Router` class: the Rust router inside a Python program."""

from __future__ import annotations

import json
from typing import Any, Self

from . import _core


class Router:
    """A router that serves on background threads; no Python runs on the path of a request.

    Options are keyword arguments, named as the long options of `launch_router --help` with
    underscores. An option that is not given has the default that is shown there::

        with Router(worker_urls=["http://127.0.0.1:30001"], port=0) as router:
            print(router.url)
            router.wait()

    Several routers on one machine need a `prometheus_port` each, or 0 for no metrics.
    Raises ValueError for an unknown option or a bad value, with the option and the reason.
    """

    def __init__(self, **options: Any) -> None:
        try:
            config_json = json.dumps(options)
        except TypeError as error:
            raise ValueError(f"invalid router configuration: {error}") from None
        self._core = _core.Router(config_json)

    @classmethod
    def from_args(cls, argv: list[str], prog: str) -> Self:
        """A router with the options of a command line.

        Raises SystemExit: 0 after --help and --version, 2 after an error (printed on stderr).
        """
        return cls(**json.loads(_core.parse_args(argv, prog)))

    def start(self) -> None:
        """Bind and serve; returns once the router listens. Raises OSError if it cannot.

        Workers may come up later: until one is healthy, /health answers 503.
        """
        self._core.start()

    def wait(self) -> None:
        """Block until another thread calls `stop`, or a signal handler raises."""
        self._core.wait()

    def stop(self, timeout_seconds: float | None = 1.0) -> None:
        """Stop accepting, give running answers up to `timeout_seconds`, then drop them.

        None takes the option `shutdown_grace_secs`. Does nothing when the router is not running.
        """
        self._core.stop(timeout_seconds)

    @property
    def url(self) -> str:
        """Where clients on this machine find the router. RuntimeError while it is not running."""
        return self._core.url

    @property
    def port(self) -> int:
        """The port that the router listens on. RuntimeError while it is not running."""
        return self._core.port

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
